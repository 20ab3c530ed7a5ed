"""Who decides: one folder an agent, pure decision cores without I/O, clock or torch. Imports schemas alone."""
