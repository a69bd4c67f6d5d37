'use strict';
'require baseclass';

/*
 * The options of /etc/config/gatehouse. Made from the tables of the agent's configuration, not by hand:
 * OPTIONS=write make test ONLY=web/settings
 *
 * Keeps nothing. An option has its name, kind, default and what it means; a list takes any number of values.
 */

const sections = [
	{
		type: 'gatehouse',
		many: false,
		title: _('The agent itself'),
		options: [
			{ name: 'state_dir', kind: 'path', fallback: '/etc/gatehouse', about: _('What has to survive a reboot: nodes, blocks, leases, the boot-time rules') },
			{ name: 'run_dir', kind: 'path', fallback: '/var/run/gatehouse', about: _('What may be lost at a reboot') },
			{ name: 'backend', kind: 'choice', words: [ 'auto', 'nft', 'ipset' ], fallback: 'auto', about: _('How the kernel is told: nft, or ipset and iptables; auto takes nft where it works') },
			{ name: 'lan_device', kind: 'device', list: true, fallback: [ 'br-lan' ], about: _('Where devices of this network are: a MAC seen there identifies a device') },
			{ name: 'wan_device', kind: 'device', list: true, fallback: [ 'wan' ], about: _('Where the internet is: a MAC seen there is a next hop\'s') },
			{ name: 'lease_file', kind: 'path', none: true, fallback: '/tmp/dhcp.leases', about: _('DHCP leases as dnsmasq writes them') },
			{ name: 'dhcp_config', kind: 'path', none: true, fallback: '/etc/config/dhcp', about: _('Where `config host` sections name devices') },
			{ name: 'rpc_socket', kind: 'path', none: true, fallback: '/var/run/spin_rpc.sock', about: _('SPIN\'s JSON-RPC socket; none: off') },
			{ name: 'extsrc_socket', kind: 'path', none: true, fallback: '', about: _('SPIN\'s socket for external sources; none: off') },
			{ name: 'rpc_uid', kind: 'number', list: true, least: 0, most: 4294967294, fallback: [], about: _('Users, by number, that may use that socket beside root') },
			{ name: 'spin_dir', kind: 'path', none: true, fallback: '/etc/spin', about: _('SPIN\'s own files: its blocks, lists and names are taken over once') },
			{ name: 'dns_group', kind: 'number', least: 1, most: 65535, fallback: '53', about: _('NFLOG group that DNS packets are copied to') },
			{ name: 'blocked_group', kind: 'number', least: 1, most: 65535, fallback: '54', about: _('NFLOG group that the heads of blocked packets are copied to') },
			{ name: 'hold_answers', kind: 'flag', fallback: '1', about: _('While names are blocked: DNS answers wait, for a quarter of a second at most, until the blocks follow them') },
			{ name: 'answer_queue', kind: 'number', least: 0, most: 65535, fallback: '53', about: _('NFQUEUE that they wait in') },
			{ name: 'max_nodes', kind: 'number', least: 16, most: 262144, fallback: '8192', about: _('Nodes in all; past it the longest unseen that nothing needs is forgotten') },
			{ name: 'max_node_addresses', kind: 'number', least: 1, most: 4096, fallback: '64', about: _('Addresses that one node may hold') },
			{ name: 'max_node_names', kind: 'number', least: 1, most: 1024, fallback: '32', about: _('Names that one node may hold') },
			{ name: 'max_flows', kind: 'number', least: 16, most: 262144, fallback: '8192', about: _('Flow records; past it the longest idle is forgotten') },
			{ name: 'max_blocks', kind: 'number', least: 1, most: 25000, fallback: '20000', about: _('Blocked pairs of nodes') },
			{ name: 'node_expiry', kind: 'number', least: 60, most: 2592000, fallback: '1800', unit: _('seconds'), about: _('When a far node that was not seen is forgotten') },
			{ name: 'device_expiry', kind: 'number', least: 3600, most: 315360000, fallback: '7776000', unit: _('seconds'), about: _('When a device that was not seen is forgotten') },
			{ name: 'flow_expiry', kind: 'number', least: 60, most: 604800, fallback: '1800', unit: _('seconds'), about: _('When a flow record without traffic is forgotten') }
		]
	},
	{
		type: 'mqtt',
		many: false,
		title: _('What is published'),
		options: [
			{ name: 'enabled', kind: 'flag', fallback: '1', about: _('Whether nodes and traffic are published') },
			{ name: 'host', kind: 'host', fallback: '127.0.0.1', about: _('The broker') },
			{ name: 'port', kind: 'number', least: 1, most: 65535, fallback: '1883', about: _('Its TCP port') },
			{ name: 'prefix', kind: 'text', fallback: 'SPIN', about: _('First level of every topic') },
			{ name: 'client_id', kind: 'text', fallback: '', about: _('Who the broker takes us for; no two clients of a broker may share one') },
			{ name: 'user', kind: 'text', fallback: '', about: _('User name for the broker') },
			{ name: 'password_file', kind: 'path', none: true, fallback: '', about: _('File with the password on its first line, which nobody else may read (mode 0600)') },
			{ name: 'version', kind: 'choice', words: [ '3.1.1', '5' ], fallback: '3.1.1', about: _('The version of MQTT that is spoken') },
			{ name: 'tls', kind: 'flag', fallback: '0', about: _('Whether the broker is spoken with over TLS, 1.2 or later; its port is then often 8883') },
			{ name: 'ca_file', kind: 'path', none: true, fallback: '', about: _('Who may vouch for the broker, PEM; without it, the authorities that come with the system') },
			{ name: 'cert_file', kind: 'path', none: true, fallback: '', about: _('Certificate that we show the broker, PEM') },
			{ name: 'key_file', kind: 'path', none: true, fallback: '', about: _('Its key, PEM, which nobody else may read (mode 0600)') },
			{ name: 'jsonrpc', kind: 'flag', fallback: '0', about: _('Whether whoever may publish on <prefix>/jsonrpc/q of the broker may ask and decide everything') },
			{ name: 'keepalive', kind: 'number', least: 5, most: 3600, fallback: '60', unit: _('seconds'), about: _('A broker that is silent for one and a half times as long is taken for gone') },
			{ name: 'max_queue', kind: 'number', least: 16384, most: 16777216, fallback: '262144', unit: _('bytes'), about: _('What may wait for a slow broker before messages are dropped') }
		]
	},
	{
		type: 'tables',
		many: false,
		title: _('Leases of routing tables'),
		options: [
			{ name: 'first', kind: 'number', least: 256, most: 4294901758, fallback: '10000', about: _('Number of the first routing table for lease') },
			{ name: 'count', kind: 'number', least: 1, most: 65536, fallback: '256', about: _('How many there are') },
			{ name: 'timeout', kind: 'number', least: 1, most: 31536000, fallback: '3600', unit: _('seconds'), about: _('How long a lease lasts that nobody renews') },
			{ name: 'rest', kind: 'number', least: 0, most: 86400, fallback: '60', unit: _('seconds'), about: _('How long a table rests after a lease before another gets it') },
			{ name: 'max_per_owner', kind: 'number', least: 1, most: 65536, fallback: '64', about: _('Leases that one user may have; root may have all') },
			{ name: 'socket', kind: 'text', none: true, fallback: 'tas_socket', about: _('Table Allocator\'s socket; none: off') },
			{ name: 'family', kind: 'choice', list: true, words: [ 'inet', 'inet6', 'unspec' ], fallback: [ 'inet', 'inet6' ], about: _('Address families that tables are leased for') }
		]
	},
	{
		type: 'ipref',
		many: false,
		title: _('The IPREF gateway'),
		options: [
			{ name: 'enabled', kind: 'flag', fallback: '0', about: _('Whether this router is an IPREF gateway') },
			{ name: 'gateway_bind', kind: 'address', fallback: '0.0.0.0', about: _('Own address that tunnel packets are received on') },
			{ name: 'gateway_pub', kind: 'text', none: true, fallback: '', about: _('Address that peers reach us by; none: the one bound') },
			{ name: 'gateway_port', kind: 'number', least: 1, most: 65535, fallback: '1045', about: _('UDP port of the tunnel') },
			{ name: 'remote_gateway_port', kind: 'number', least: 1, most: 65535, fallback: '1045', about: _('UDP port of peers that have not been heard yet') },
			{ name: 'gateway_ref', kind: 'text', fallback: '1', about: _('Reference of the gateway itself') },
			{ name: 'gateway_mtu', kind: 'number', least: 1280, most: 65535, fallback: '1500', unit: _('bytes'), about: _('Longest packet that the way to peers takes, tunnel headers included') },
			{ name: 'encode_net', kind: 'prefix', fallback: '10.240.0.0/12', about: _('Addresses that stand for remote hosts on this network') },
			{ name: 'device', kind: 'device', fallback: 'ipref', about: _('The interface that packets for remote hosts leave by') },
			{ name: 'dec_ttl', kind: 'flag', fallback: '1', about: _('Whether the gateway counts as a hop') },
			{ name: 'clamp_mss', kind: 'flag', fallback: '1', about: _('Whether TCP is told what fits through the tunnel') },
			{ name: 'admit_router', kind: 'flag', fallback: '0', about: _('Whether remote hosts may open connections to this router') },
			{ name: 'hosts', kind: 'path', none: true, fallback: '/etc/hosts', about: _('Hosts file with our own and remote references') },
			{ name: 'mapper_socket', kind: 'path', none: true, fallback: '/var/run/gatehouse/mapper.sock', about: _('Where CoreDNS and dns-agent ask for mappings; none: off') },
			{ name: 'peer', kind: 'address', list: true, fallback: [], about: _('Gateways that may reach us first; if none is listed: those in hosts and those we have sent to') },
			{ name: 'any_peer', kind: 'flag', fallback: '0', about: _('Whether every gateway may reach published hosts') },
			{ name: 'max_mappings', kind: 'number', least: 1024, most: 1048576, fallback: '131072', about: _('Mappings that are kept') },
			{ name: 'max_peer_mappings', kind: 'number', least: 16, most: 1048576, fallback: '8192', about: _('Mappings that one gateway may make') },
			{ name: 'zone', kind: 'text', list: true, fallback: [], about: _('Domains whose names are looked up as IPREF addresses') },
			{ name: 'upstream', kind: 'address', list: true, fallback: [], about: _('DNS servers that know those domains; if none is listed: the one of this router') },
			{ name: 'dns_port', kind: 'number', least: 1, most: 65535, fallback: '5364', about: _('Where the names of those domains are answered, on loopback') },
			{ name: 'transfer', kind: 'text', list: true, fallback: [], about: _('Zones whose IPREF records publish our own hosts, as dns-agent takes them') },
			{ name: 'transfer_interval', kind: 'number', least: 1, most: 10080, fallback: '59', unit: _('minutes'), about: _('How often they are transferred') }
		]
	},
	{
		type: 'isolation',
		many: false,
		title: _('Services kept apart'),
		options: [
			{ name: 'enabled', kind: 'flag', fallback: '0', about: _('Whether services are kept apart') },
			{ name: 'pool4', kind: 'prefix4', fallback: '198.18.0.0/15', about: _('IPv4 addresses that stand in for services') },
			{ name: 'pool6', kind: 'prefix6', fallback: 'fd00:6a7e::/64', about: _('IPv6 addresses that stand in for services') },
			{ name: 'domain', kind: 'text', list: true, fallback: [ 'lan' ], about: _('Domains whose names are services') },
			{ name: 'dns_port', kind: 'number', least: 1, most: 65535, fallback: '5365', about: _('Where queries of services are answered, on the segments') },
			{ name: 'upstream', kind: 'address', list: true, fallback: [ '127.0.0.1' ], about: _('DNS servers for names outside') },
			{ name: 'privileged', kind: 'text', list: true, fallback: [], about: _('Who may reach every service') },
			{ name: 'privileged_host', kind: 'text', list: true, fallback: [], about: _('Whom every service may reach, such as arbiter') },
			{ name: 'bootstrap_segment', kind: 'text', none: true, fallback: '', about: _('Where everybody is privileged until the manager has said who it is; none: nowhere') },
			{ name: 'bootstrap_time', kind: 'number', least: 1, most: 86400, fallback: '300', unit: _('seconds'), about: _('How long that lasts at most') },
			{ name: 'http', kind: 'text', none: true, fallback: '', about: _('Where the HTTP interface listens; none: off') },
			{ name: 'http_name', kind: 'text', list: true, fallback: [ 'databox-network' ], about: _('Names that clients of it know us by') },
			{ name: 'http_cert', kind: 'path', none: true, fallback: '', about: _('Its certificate, PEM; none: plain HTTP') },
			{ name: 'http_key', kind: 'path', none: true, fallback: '', about: _('The certificate\'s key, PEM; none: in the same file') },
			{ name: 'key_file', kind: 'path', fallback: '/etc/gatehouse/network.key', about: _('The key of the HTTP interface') }
		]
	},
	{
		type: 'segment',
		many: true,
		title: _('A segment of isolated services'),
		options: [
			{ name: 'device', kind: 'device', list: true, fallback: [], about: _('The bridges, VLANs or cables that the segment\'s services are on') },
			{ name: 'network', kind: 'text', list: true, fallback: [], about: _('Networks, by their names in /etc/config/network, whose devices are the segment\'s, too') },
			{ name: 'isolate', kind: 'flag', fallback: '0', about: _('Whether ports of its bridges exchange frames with the router only') },
			{ name: 'encrypted_dns', kind: 'flag', fallback: '0', about: _('Whether services may ask other DNS servers over TLS') },
			{ name: 'mdns', kind: 'flag', fallback: '1', about: _('Whether connected services discover each other') },
			{ name: 'resolver', kind: 'address', list: true, fallback: [], about: _('DNS servers that know services which no section declares') }
		]
	},
	{
		type: 'pin',
		many: true,
		title: _('An address that nobody else may claim'),
		options: [
			{ name: 'device', kind: 'device', fallback: '', about: _('The device that the address is on') },
			{ name: 'address', kind: 'address', fallback: '', about: _('The address, such as the gateway\'s') },
			{ name: 'mac', kind: 'mac', fallback: '', about: _('Whose it is for good; if not given: the first that answers and is verified, as long as the agent lives') }
		]
	},
	{
		type: 'service',
		many: true,
		title: _('An isolated service'),
		options: [
			{ name: 'segment', kind: 'text', fallback: '', about: _('The segment it is on') },
			{ name: 'address', kind: 'address', list: true, fallback: [], about: _('Its addresses') },
			{ name: 'mac', kind: 'mac', fallback: '', about: _('Its MAC, instead of an address') },
			{ name: 'hostname', kind: 'text', fallback: '', about: _('Its DHCP host name, instead of an address') },
			{ name: 'alias', kind: 'text', list: true, fallback: [], about: _('Other names of it') },
			{ name: 'peer', kind: 'text', list: true, fallback: [], about: _('Services, or names outside, it may speak with') }
		]
	}
];

return baseclass.extend({ sections: sections });
