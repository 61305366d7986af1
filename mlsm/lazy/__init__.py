"""What lazy libraries need beside the formula, a file per library, reached only when one of its arrays has arrived."""
