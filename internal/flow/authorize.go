package flow

import (
	"context"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Authorize makes sure that a bearer token for the account is at hand, fetching one from IMS if need
// be. Static credentials need none.
func (c *Client) Authorize(ctx context.Context, as provision.Account) error {
	if _, err := c.grant(ctx, as); err != nil {
		return err
	}
	return nil
}
