# What flow-worker may do in Vault, for VAULT_KV_MOUNT=secret and VAULT_TENANT_PREFIX=flow/tenants:
#   vault policy write flow-worker policy.hcl

# KV v2: read the current or a named version of a tenant's secrets ("+" is the tenant, one segment).
# No list and no metadata: the worker can't find out which tenants or secrets there are.
path "secret/data/flow/tenants/+/*" {
  capabilities = ["read"]
}

# For a mount of KV v1 use this instead:
# path "secret/flow/tenants/+/*" {
#   capabilities = ["read"]
# }

# Keep the own token alive, and tell how long it has.
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
