"""Active learning: ask people about what the model is least sure of, and train on what they say.

``texts`` asks language models' questions; a module for another kind of model stands beside it.
"""
