"""Other people's active learning, asked the same questions: each in an environment of its own, behind one small client."""
