"""Dollars that all workers of a cluster share: handed out in blocks, never overdrawn."""

from chutes_opencode.distributed.budget.cluster_budget import ClusterBudget
from chutes_opencode.distributed.budget.shares import BudgetView
from chutes_opencode.distributed.budget.ticket import BudgetTicket, start_budget

__all__ = ["BudgetTicket", "BudgetView", "ClusterBudget", "start_budget"]
