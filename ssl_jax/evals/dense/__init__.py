"""Parts of evaluations of single positions of images: targets, scores, classifiers."""
