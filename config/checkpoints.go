package config

import (
	"regexp"
	"strconv"

	"github.com/hanzoai/hanzod/config/json5"
)

// Checkpoints is the section checkpoints, which is hanzod's own: where sessions of nodes are kept.
type Checkpoints struct {
	Store      string // own (default), dir, s3
	Dir        string // for dir
	S3         CheckpointS3
	Encryption CheckpointEncryption
	Redact     []string // regular expressions
	KeepLast   int      // 0 for all
	KeepDays   int      // 0 for good
}

// CheckpointS3 is checkpoints.s3.
type CheckpointS3 struct {
	Endpoint, Bucket, Region  string // "" for the defaults of the store
	AccessKey, SecretKey      Secret
	VirtualHost, CreateBucket bool
}

// CheckpointEncryption is checkpoints.encryption.
type CheckpointEncryption struct {
	Recipients   []string
	Tenants      map[string][]string
	IdentityFile string
}

func (l *loader) checkpoints(o object, c *Checkpoints) {
	c.Store = "own"
	o.choice("store", &c.Store, "own", "dir", "s3")
	o.file("dir", &c.Dir)
	s3 := o.object("s3")
	s3.str("endpoint", &c.S3.Endpoint)
	s3.str("bucket", &c.S3.Bucket)
	s3.str("region", &c.S3.Region)
	used := func() bool { return c.Store == "s3" }
	s3.secret("accessKey", &c.S3.AccessKey, used)
	s3.secret("secretKey", &c.S3.SecretKey, used)
	s3.bool("virtualHost", &c.S3.VirtualHost)
	s3.bool("createBucket", &c.S3.CreateBucket)
	s3.strict()
	e := o.object("encryption")
	e.strs("recipients", &c.Encryption.Recipients)
	e.file("identityFile", &c.Encryption.IdentityFile)
	tenants := e.object("tenants")
	if tenants.n != nil {
		c.Encryption.Tenants = map[string][]string{}
		for _, m := range tenants.n.Members {
			var keys []string
			tenants.strs(m.Key, &keys)
			c.Encryption.Tenants[m.Key] = keys
		}
	}
	e.strict()
	o.strs("redact", &c.Redact)
	keep := o.object("retention")
	keep.int("keepLast", 0, 100_000, &c.KeepLast)
	keep.int("keepDays", 0, 36_500, &c.KeepDays)
	keep.strict()
	o.strict()
}

// checkpointRules are those that the description of the keys has no words for.
func (l *loader) checkpointRules(n *json5.Node) {
	if n == nil {
		return
	}
	if str(n, "store") == "dir" && str(n, "dir") == "" {
		l.fail("checkpoints.dir", n, `checkpoints.store="dir" requires checkpoints.dir`)
	}
	if list := n.Get("redact"); list != nil {
		for i, item := range list.Items {
			if _, err := regexp.Compile(item.Str); err != nil {
				l.fail("checkpoints.redact."+strconv.Itoa(i), item, "not a regular expression")
			}
		}
	}
}
