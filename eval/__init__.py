"""The three-axis evaluation: harm, over-refusal and utility, each with its interval."""
