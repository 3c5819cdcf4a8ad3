# What a flow-worker may do in Vault that is to serve some tenants only, instead of policy.hcl:
#   vault policy write flow-worker policy-tenants.hcl
# Give each such fleet NATS objects of its own (another account): a worker that is sent the request of
# a tenant whose secrets it may not read fails that request as vault_unavailable at its deadline.

# Copy this for every tenant that it is to serve. End each path with "/*": without the "/" it would be
# "acme-test", too.
path "secret/data/flow/tenants/acme/*" {
  capabilities = ["read"]
}

# Keep the own token alive, and tell how long it has.
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
