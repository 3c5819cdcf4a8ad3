# What a flow-worker may do in Vault that is to serve one tenant: the one that its identity names. The
# same policy does for the workers of every such tenant:
#   vault policy write flow-worker-of-one policy-entity.hcl
#   vault write identity/entity name=flow-worker-acme metadata=tenant=acme
#   vault write identity/entity-alias name=<role id, or service account's uid> canonical_id=<the entity's id> mount_accessor=<of the login>
# An entity without that metadata can read nothing. Whoever may change entities may change the tenant.

path "secret/data/flow/tenants/{{identity.entity.metadata.tenant}}/*" {
  capabilities = ["read"]
}

# Keep the own token alive, and tell how long it has.
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
