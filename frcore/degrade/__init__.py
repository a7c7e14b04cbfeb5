"""Good faces -> bad ones: recipes, their steps and what carries them out."""
