"""The mathematics: primitives, elementary functions, formulas. It knows no array, dtype, thread or device."""
