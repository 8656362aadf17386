"""A model as if it had never seen them: unlearning of language models and classifiers, curvature edits, exact retraining."""
