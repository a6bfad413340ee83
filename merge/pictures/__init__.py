"""The pictures of a merge by matplotlib, and its curves in TensorBoard; imports the record."""
