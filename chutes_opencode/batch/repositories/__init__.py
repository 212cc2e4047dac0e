"""Git worktrees for the items that name a repository."""
