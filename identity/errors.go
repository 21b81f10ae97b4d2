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

	ErrDeviceRequired    = errs.Define(errs.Unauthenticated, "identity.device_required", "a device identity is required")
	ErrControlUIDevice   = errs.Define(errs.Unauthenticated, "identity.control_ui_device", "the Control UI needs a device identity")
	ErrPairingRequired   = errs.Define(errs.Denied, "identity.pairing_required", "the device waits for approval")
	ErrTooManyPending    = errs.Define(errs.Exhausted, "identity.too_many_pending", "too many devices wait for approval")
	ErrTooManyDevices    = errs.Define(errs.Exhausted, "identity.too_many_devices", "too many devices are paired; remove some")
	ErrBearerRequired    = errs.Define(errs.Unauthenticated, "identity.bearer_required", "send the gateway token or a device token as Authorization: Bearer")
	ErrBearerNotAccepted = errs.Define(errs.Unauthenticated, "identity.bearer", "the bearer token is not valid")
)
