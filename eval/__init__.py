"""The evaluation, on three axes: harm, over-refusal, utility; imports the floors train and
merge."""
