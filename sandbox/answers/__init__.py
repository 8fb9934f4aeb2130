"""What learners ask people, and what people answer.

    a learner asks ──> journal ──> a person answers (a draft) ──> hands in, signed ──> the next job's training data

``journal`` keeps lines, ``book`` says what they mean, ``desk`` is where people and rounds work.
"""
