-- prosody on an address of its own, for clients alone.
run_as_root = true
daemonize = false
data_path = "."
plugin_paths = {}
modules_enabled = { "roster", "saslauth" }
modules_disabled = { "s2s" }
interfaces = { "127.0.0.1" }
c2s_ports = { 8000 }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
log = { warn = "*console" }
VirtualHost "shop.test"
