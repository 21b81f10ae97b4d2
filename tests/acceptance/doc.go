// Package acceptance checks the promises about links row by row: H1–H33 of tunnel.md §6, each with real
// processes. `make acceptance` runs all and prints a table; without it only the table itself is checked.
package acceptance
