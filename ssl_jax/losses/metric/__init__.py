"""Losses of metric learning, as pure functions of embeddings and class labels.

Those that compare the examples of a batch are composed of

    distance   `distances`: euclidean, squared, cosine, angular
    mining     `mining`: which triplets count
    reduction  `reductions`: what the sum over pairs or triplets is divided by

and those that compare examples with classes of a margin (`margins`) and a softmax over all classes
(`classes`). None stores an array of batch x batch or of batch x classes: `strips`.
"""
