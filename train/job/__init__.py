"""One training from its recipe to its patch: inputs, loading, the loop, its monitor and its stops;
imports all other folders of train."""
