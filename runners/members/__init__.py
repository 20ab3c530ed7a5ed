"""Who belongs to a fleet: the register, the gatekeeper that keeps it, joining, and the audit."""
