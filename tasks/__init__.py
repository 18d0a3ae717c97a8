"""Use-cases and execution: services, plan, steps, the chain, settle, clean-up, reconcile."""
