"""What every driver promises: the same tests on each, also with its limits forced small."""
