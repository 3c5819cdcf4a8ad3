package main

import (
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// registry is Vault's catalog of what is built in, asked whenever something is to be mounted. Vault's
// own would bring every cloud's client with it.
type registry struct{}

func factories(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return engines
	case consts.PluginTypeCredential:
		return logins
	}
	return nil
}

// Contains implements plugincatalog.BuiltinRegistry.
func (registry) Contains(name string, kind consts.PluginType) bool {
	return factories(kind)[name] != nil
}

// Get implements plugincatalog.BuiltinRegistry.
func (registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, ok := factories(kind)[name]
	return func() (interface{}, error) { return factory, nil }, ok
}

// Keys implements plugincatalog.BuiltinRegistry.
func (registry) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range factories(kind) {
		names = append(names, name)
	}
	return names
}

// DeprecationStatus implements plugincatalog.BuiltinRegistry.
func (registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, registry{}.Contains(name, kind)
}

// IsBuiltinEntPlugin implements plugincatalog.BuiltinRegistry.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
