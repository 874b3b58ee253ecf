"""Making a trained network smaller: criteria that score its units, allocators, schedules, and the honest verdict."""
