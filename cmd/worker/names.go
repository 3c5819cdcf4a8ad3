package main

import "github.com/flow-worker/flow-worker/internal/provision"

// checkNames checks what somebody typed to name requests. An empty tenant or source means any; an empty id would
// mean every request there is, which nobody says in that way.
func checkNames(tenant, source string, ids ...string) error {
	switch {
	case tenant != "" && !provision.ValidTenant(tenant):
		return usagef("--tenant is %.80q; want a tenant's name: lower-case letters, digits, \"_\" and \"-\", at most 63", tenant)
	case len(source) > provision.MaxKeyPart:
		return usagef("--source has %d bytes; want 1 to %d bytes", len(source), provision.MaxKeyPart)
	}
	for _, id := range ids {
		switch {
		case id == "":
			return usagef("the id is empty; want 1 to %d bytes", provision.MaxKeyPart)
		case len(id) > provision.MaxKeyPart:
			return usagef("the id has %d bytes; want 1 to %d bytes", len(id), provision.MaxKeyPart)
		}
	}
	return nil
}
