"""One limiter for a provider account on a whole cluster.

One actor for each account (`limiter_actor`) wraps a desk (`desk`), where the processes of the
cluster, its members, ask for permits; whose turn it is, the shared flow (`shared_flow`) decides.
A member's limiter (`member`, made by `cluster_limiter`) keeps a book of what it holds (`book`).
What they tell each other is in `protocol`.
"""
