"""On-device views: what a method sees of an example, all jittable."""

from ssl_jax.views.image import default_parameters, eval_view, make_views, to_show, train_and_eval

__all__ = ["default_parameters", "eval_view", "make_views", "to_show", "train_and_eval"]
