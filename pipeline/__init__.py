"""How it runs: jobs, plans, Ray, storage and people. Imports the operators; they never import it."""
