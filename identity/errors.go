package identity

import "github.com/hanzoai/hanzod/errs"

// The refusals of a connect. Doors have their own texts for them.
var (
	ErrDeviceID       = errs.Define(errs.Unauthenticated, "identity.device_id", "the device id does not belong to the public key")
	ErrSignatureStale = errs.Define(errs.Unauthenticated, "identity.signature_stale", "the device signature is too old or from the future; check the clock of the device")
	ErrNonceMissing   = errs.Define(errs.Unauthenticated, "identity.nonce_missing", "the device signature names no nonce")
	ErrNonceMismatch  = errs.Define(errs.Unauthenticated, "identity.nonce_mismatch", "the device signature is for another connection")
	ErrSignature      = errs.Define(errs.Unauthenticated, "identity.signature", "the device signature is not valid")

	// Field "reason" tells the shared-secret failures apart (protocol.md §4.3).
	ErrAuth = errs.Define(errs.Unauthenticated, "identity.auth", "the credentials are not valid")

	// Field "retryAfterMs" is the time after which the source may try again.
	ErrRateLimited = errs.Define(errs.Exhausted, "identity.rate_limited", "too many failed attempts; try again later")

	ErrDeviceRequired  = errs.Define(errs.Unauthenticated, "identity.device_required", "a device identity is required")
	ErrControlUIDevice = errs.Define(errs.Unauthenticated, "identity.control_ui_device", "the Control UI needs a device identity")
	ErrPairingRequired = errs.Define(errs.Denied, "identity.pairing_required", "the device waits for approval")
	// ErrDeviceTenant refuses a device of one organisation with the credential of another. It does not say whose
	// the device is.
	ErrDeviceTenant   = errs.Define(errs.Denied, "identity.device_tenant", "the device belongs to another organisation than this credential; use another device key, or have the device removed and pair it again")
	ErrTooManyPending = errs.Define(errs.Exhausted, "identity.too_many_pending", "too many devices wait for approval")
	ErrTooManyDevices = errs.Define(errs.Exhausted, "identity.too_many_devices", "too many devices are paired; remove some")

	// ErrEnded is for what was let in, or about to be, by something that does not hold any more.
	ErrEnded = errs.Define(errs.Unauthenticated, "identity.ended", "the device was removed, or its token revoked or rotated; pair it again")

	ErrTooManyScopes = errs.Define(errs.Invalid, "identity.too_many_scopes", "a device may ask for 32 scopes of 128 bytes at the most")
	ErrTextTooLong   = errs.Define(errs.Invalid, "identity.text_too_long", "name, platform and family of a device may be 256 bytes each at the most")

	ErrUnknownRequest = errs.Define(errs.NotFound, "identity.unknown_request", "no such pairing request is open; it was decided, has expired or was replaced by a wider one")
	ErrUnknownDevice  = errs.Define(errs.NotFound, "identity.unknown_device", "no such device is paired")
	ErrUnknownToken   = errs.Define(errs.NotFound, "identity.unknown_token", "the device is not paired in this role, or not with these scopes")
	// Field "scope" names what the caller would need.
	ErrBeyondCaller = errs.Define(errs.Denied, "identity.beyond_caller", "this is more than the caller holds itself")

	ErrPublicKey      = errs.Define(errs.Invalid, "identity.public_key", "the public key is no Ed25519 key in base64url")
	ErrInviteRole     = errs.Define(errs.Invalid, "identity.invite_role", "an invite is for the role operator or node")
	ErrInviteScopes   = errs.Define(errs.Invalid, "identity.invite_scopes", "an invite for an operator names the scopes it gives, one for a node none")
	ErrInviteTTL      = errs.Define(errs.Invalid, "identity.invite_ttl", "an invite holds from 1 second to 10 minutes")
	ErrTooManyInvites = errs.Define(errs.Exhausted, "identity.too_many_invites", "too many invites are open; use them or wait until they expire")
	ErrInvite         = errs.Define(errs.Unauthenticated, "identity.invite", "this invite was used or has expired; make a new one with: hanzoctl devices invite")

	ErrBearerRequired    = errs.Define(errs.Unauthenticated, "identity.bearer_required", "send the gateway token or a device token as Authorization: Bearer")
	ErrBearerNotAccepted = errs.Define(errs.Unauthenticated, "identity.bearer", "the bearer token is not valid")
)
