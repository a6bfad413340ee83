"""What a search asks by forward passes: refusal margins as rates, leads of right answers;
imported by the fit and the search."""
