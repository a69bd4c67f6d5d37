'use strict';
'require baseclass';

/*
 * Nodes, amounts and times as people read them. All of it is plain text.
 */

const sizes = [ 'B', 'kB', 'MB', 'GB', 'TB', 'PB' ];
const rates = [ 'bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s' ];
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });

function scaled(amount, units) {
	let unit = 0;
	while (amount >= 999.5 && unit < units.length - 1) {
		amount /= 1000;
		unit++;
	}
	return (unit > 0 && amount < 9.95 ? amount.toFixed(1) : String(Math.round(amount))) + '\u00a0' + units[unit];
}

/* Without the dot that ends a domain name. */
function domainOf(name) {
	return name.length > 1 && name.charAt(name.length - 1) === '.' ? name.slice(0, -1) : name;
}

function nameOf(node) {
	if (node.name)
		return node.name;
	if (node.domains && node.domains.length > 0)
		return domainOf(node.domains[0]);
	return node.ips && node.ips[0] || node.mac || '#' + node.id;
}

const protocols = { 1: 'icmp', 2: 'igmp', 6: 'tcp', 17: 'udp', 47: 'gre', 50: 'esp', 58: 'icmpv6', 132: 'sctp' };

return baseclass.extend({
	/* Bytes. */
	size: function(bytes) {
		return scaled(bytes, sizes);
	},

	/* Bytes per second. */
	rate: function(bytes) {
		return scaled(bytes * 8, rates);
	},

	/* Two amounts in one cell, received and sent; nothing is a dash. */
	both: function(received, sent, format) {
		return received > 0 || sent > 0 ? '↓\u00a0' + format(received) + ' ↑\u00a0' + format(sent) : '–';
	},

	/* An instant in Unix seconds, seen from now. */
	ago: function(at) {
		const seconds = Math.max(0, Math.floor(Date.now() / 1000) - at);
		if (!at)
			return _('never');
		if (seconds < 10)
			return _('now');
		if (seconds < 60)
			return _('%d s ago').format(seconds);
		if (seconds < 3600)
			return _('%d min ago').format(Math.floor(seconds / 60));
		if (seconds < 86400)
			return _('%d h ago').format(Math.floor(seconds / 3600));
		return _('%d d ago').format(Math.floor(seconds / 86400));
	},

	/* A span of seconds, to come or past. */
	span: function(seconds) {
		if (seconds < 60)
			return _('%d s').format(seconds);
		if (seconds < 3600)
			return _('%d min').format(Math.floor(seconds / 60));
		if (seconds < 2 * 86400)
			return _('%d h').format(Math.floor(seconds / 3600));
		return _('%d d').format(Math.floor(seconds / 86400));
	},

	name: nameOf,

	domain: domainOf,

	/* Everything that a search looks at, in lower case. */
	haystack: function(node) {
		return [ node.name, node.mac, '#' + node.id ].concat(node.domains, node.ips).join('\n').toLowerCase();
	},

	/* Whether it is one of ours: a device, or an address of our network. */
	isOurs: function(node) {
		return node.kind === 'device' || node.kind === 'local';
	},

	/* "tcp 443" */
	service: function(flow) {
		const protocol = protocols[flow.protocol] || String(flow.protocol);
		return flow.to_port > 0 ? protocol + ' ' + flow.to_port : protocol;
	},

	compare: function(left, right) {
		return typeof(left) === 'number' && typeof(right) === 'number'
			? left - right
			: collator.compare(String(left), String(right));
	}
});
