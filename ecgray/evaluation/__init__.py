"""Scores of predictions, and statistics over seeds. Knows numpy, scipy, scikit-learn and pandas, no networks."""
