"""Evaluations side by side: verdict, tables and one page; imports everything else of the
evaluation."""
