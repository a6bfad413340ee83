"""From a trained model to its patch: importance, delta, size, identity; imported by the job."""
