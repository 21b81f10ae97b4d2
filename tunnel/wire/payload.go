package wire

// The payloads, in the words of tunnel.md §4.5. Members that may be absent are pointers or omitted when empty.
type (
	// HelloBody opens a connection. Its members are in the order in which published drivers write them.
	HelloBody struct {
		Version        string     `json:"version"`
		Auth           *HelloAuth `json:"auth,omitempty"`
		Capabilities   []string   `json:"capabilities"`
		Resume         *Resume    `json:"resume,omitempty"`
		MaxConnections int        `json:"maxConnections,omitempty"`
	}
	// Resume names the session to go on with.
	Resume struct {
		SessionID string `json:"sessionId"`
	}
	// HelloAuth is the credential of older drivers. It is a secret.
	HelloAuth struct {
		Kind  string `json:"kind"`
		Token string `json:"token"`
	}
	// HelloOKBody answers it.
	HelloOKBody struct {
		SessionID          string        `json:"sessionId"`
		Resumed            bool          `json:"resumed"`
		ResumedBinds       []ResumedBind `json:"resumedBinds"`
		StreamWindow       uint32        `json:"streamWindow"`
		SessionWindow      uint32        `json:"sessionWindow"`
		ConnectionsGranted int           `json:"connectionsGranted,omitempty"`
		JoinTickets        []JoinTicket  `json:"joinTickets,omitzero"`
		Capabilities       []string      `json:"capabilities,omitempty"`
		MaxStreams         int           `json:"maxStreams,omitempty"`
		Limits             *Limits       `json:"limits,omitempty"`
	}
	// Limits are the server's, for clients that want to know.
	Limits struct {
		Bindings   int `json:"bindings"`
		IdleMS     int `json:"idleMs"`
		GraceMS    int `json:"graceMs"`
		MaxMessage int `json:"maxMessage"`
	}
	// ResumedBind is a binding that is there again.
	ResumedBind struct {
		BindID        int    `json:"bindId"`
		Kind          string `json:"kind"`
		Mode          string `json:"mode"`
		ContainerPort int    `json:"containerPort"`
	}
	// JoinTicket admits one more carrier. ExpiresMS is a duration.
	JoinTicket struct {
		Index     int    `json:"index"`
		Nonce     string `json:"nonce"`
		ExpiresMS int64  `json:"expiresMs"`
	}
	// JoinBody is the first frame on a further carrier.
	JoinBody struct {
		SessionID string `json:"sessionId"`
		Index     int    `json:"index"`
		Nonce     string `json:"nonce"`
	}
	// JoinOKBody answers it.
	JoinOKBody struct {
		Index int `json:"index"`
	}
	// JoinErrBody refuses it.
	JoinErrBody struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	// BindBody asks for a binding. Node, of hanzod's own peers with the mode dial, names another node than the
	// daemon itself, as whose Host and ContainerPort are reached.
	BindBody struct {
		ClientBindRef int    `json:"clientBindRef"`
		Kind          string `json:"kind"`
		Mode          string `json:"mode"`
		ContainerPort int    `json:"containerPort"`
		Label         string `json:"label,omitempty"`
		Takeover      *bool  `json:"takeover,omitempty"`
		Host          string `json:"host,omitempty"`
		Node          string `json:"node,omitempty"`
		// Subdomain and Access are of hanzod's own peers: the host name wanted, and who may visit (public, token,
		// operator).
		Subdomain string `json:"subdomain,omitempty"`
		Access    string `json:"access,omitempty"`
	}
	// BindOKBody grants it. PublicURL is null where there is none.
	BindOKBody struct {
		ClientBindRef int     `json:"clientBindRef"`
		BindID        int     `json:"bindId"`
		ContainerPort int     `json:"containerPort"`
		PublicURL     *string `json:"publicUrl"`
	}
	// BindErrBody refuses it with one of the codes of tunnel.md §4.5.
	BindErrBody struct {
		ClientBindRef int    `json:"clientBindRef"`
		Code          string `json:"code"`
		Message       string `json:"message"`
	}
	// UnbindBody ends a binding; UNBIND_OK has the same form, UNBIND_ERR Code and Message too.
	UnbindBody struct {
		BindID  int    `json:"bindId"`
		Code    string `json:"code,omitempty"`
		Message string `json:"message,omitempty"`
	}
	// StreamOpenBody opens a stream: kind http with Method, Target, Headers and IsUpgrade; tcp; of hanzod's own
	// peers dial with Host and Port. BindID and RemoteAddr are hanzod's.
	// What is empty is left out, except that kind http always has its four.
	StreamOpenBody struct {
		Kind       string      `json:"kind"`
		Method     string      `json:"method"`
		Target     string      `json:"target"`
		Headers    [][2]string `json:"headers"`
		IsUpgrade  bool        `json:"isUpgrade"`
		BindID     int         `json:"bindId"`
		RemoteAddr string      `json:"remoteAddr"`
		Host       string      `json:"host"`
		Port       int         `json:"port"`
	}
	// StreamAcceptBody answers a stream of kind dial with the address that was reached.
	StreamAcceptBody struct {
		PeerAddr string `json:"peerAddr,omitempty"`
	}
	// BindingsBody is the full list of a tunnel's bindings, after somebody else changed it.
	BindingsBody struct {
		Bindings []ResumedBind `json:"bindings"`
	}
	// ResponseHeadBody answers a stream of kind http. A Final that is false announces another one.
	ResponseHeadBody struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
		Final   bool        `json:"final"`
	}
	// GoAwayBody says why a connection ends.
	GoAwayBody struct {
		Code         Code   `json:"code"`
		Message      string `json:"message"`
		LastStreamID uint32 `json:"lastStreamId"`
		GraceMS      int64  `json:"graceMs"`
	}
	// BindRevokedBody says that a binding went to somebody else.
	BindRevokedBody struct {
		BindID int    `json:"bindId"`
		Reason string `json:"reason"`
	}
)

// The codes of BIND_ERR.
const (
	AlreadyBound    = "ALREADY_BOUND"
	PortInUse       = "PORT_IN_USE"
	ReservedPort    = "RESERVED_PORT"
	InvalidHost     = "INVALID_HOST"
	PrivilegedPort  = "PRIVILEGED_PORT"
	BindCapExceeded = "BIND_CAP_EXCEEDED"
	InvalidKind     = "INVALID_KIND"
	Internal        = "INTERNAL"
	// ApprovalRequired goes to peers with the capability hanzod.1 alone; others get InvalidHost.
	ApprovalRequired = "APPROVAL_REQUIRED"
)
