"""One patch after another for new kinds of harm, beside baselines; imports the run."""
