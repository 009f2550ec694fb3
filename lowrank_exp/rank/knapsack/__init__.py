"""The multiple-choice knapsack: its search, its parts, its relaxation."""
