'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * IPREF: the gateway, its mappings, who is reached through it, and what it dropped.
 *
 * Kept: which mappings are asked for, and the pages of them that were gone through to come here.
 */

const lookSeconds = 5;
const pageSize = 100;

const kinds = { ours: _('ours'), theirs: _('theirs') };
const states = { static: _('written down'), live: _('in use'), new: _('not used yet'), rest: _('at rest') };

function optional(value) {
	return value.trim() || undefined;
}

function allPeers() {
	const all = [];
	const next = function(after) {
		return bus.calls.peers(after).then(function(answer) {
			const page = answer.peers || [];
			for (const peer of page)
				all.push(peer);
			return answer.more && page.length > 0 ? next(page[page.length - 1].context) : all;
		});
	};
	return next(undefined);
}

/* When a mapping ends, or may be given to others. */
function endOf(entry) {
	if (entry.expires_in !== undefined)
		return words.span(entry.expires_in);
	return entry.kept_for === undefined ? _('never') : _('kept for %s').format(words.span(entry.kept_for));
}

function usedOf(entry) {
	return entry.used === undefined ? '–' : words.span(entry.used);
}

function row(title, text) {
	return E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td left', 'width': '33%' }, [ title ]),
		E('td', { 'class': 'td left', 'style': 'overflow-wrap:anywhere' }, [ text ])
	]);
}

/* What is not as it should be, a line each. */
function complaintsOf(status) {
	const unused = [];
	(status.sources || []).forEach(function(source) {
		source.refusals.forEach(function(each) {
			unused.push(source.source + ': ' + [ each.address, each.context, each.reference ].filter(Boolean).join(' ') + ': ' + each.why);
		});
	});
	const imports = (status.imports || []).filter(function(each) { return each.trouble; });
	return [].concat(status.damaged || [], status.hosts_mistakes || [], unused, imports.map(function(each) {
		return each.source + ': ' + each.trouble;
	}));
}

function statusOf(status) {
	const sources = (status.sources || []).map(function(each) { return each.source + ' (' + each.records + ')'; });
	const rows = [
		row(_('Forwarding'), status.forwarding ? _('yes, by %s').format(status.device) : _('no')),
		row(_('Receives on'), _('%s, port %d').format(status.bind, status.port)),
		row(_('Peers reach us by'), status.context || _('an address that only they know')),
		row(_('Encoded addresses'), status.encode_net),
		row(_('Mappings'), _('%d, and %d at rest').format(status.mappings, status.resting)),
		row(_('Written down in'), sources.join(', ') || '–'),
		row(_('Resolver'), status.resolver ? _('%s; %d answered').format(status.resolver.zones.join(', '), status.resolver.answered) : _('off')),
		row(_('Broker'), status.broker ? _('%d connected').format(status.broker.clients) : _('off'))
	];
	const complaints = complaintsOf(status);
	if (complaints.length > 0)
		rows.push(row(_('To be looked at'), E('ul', { 'style': 'margin:0' }, complaints.map(function(each) {
			return E('li', {}, [ each ]);
		}))));
	return rows;
}

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		this.part = bus.part(_('IPREF is switched off. It is switched on by the option enabled of the section ipref.'));
		/* Where the pages before this one ended. */
		this.befores = [ 0 ];
		this.filter = {};
		return L.resolveDefault(this.part.ask(this.look.bind(this)), undefined);
	},

	look: function() {
		const filter = this.filter;
		const after = this.befores[this.befores.length - 1];
		return Promise.all([
			bus.calls.gateway(),
			bus.calls.mappings(after, pageSize, filter.kind, filter.state, filter.peer, filter.address),
			allPeers(),
			bus.calls.drops()
		]);
	},

	render: function(data) {
		const self = this;
		const notice = bus.notice();
		const about = E('table', { 'class': 'table' });
		const found = E('p', { 'aria-live': 'polite', 'style': 'overflow-wrap:anywhere' }, [ '' ]);
		const place = E('span', {}, [ '' ]);
		let last = 0;

		const again = bus.watch(function() {
			return self.part.ask(self.look.bind(self)).then(show);
		}, lookSeconds, notice);

		const table = grid.create([
			{ title: _('Number'), text: function(entry) { return String(entry.id); }, sort: function(entry) { return entry.id; } },
			{ title: _('Kind'), text: function(entry) { return kinds[entry.kind] || entry.kind; }, sort: function(entry) { return entry.kind; } },
			{ title: _('Address'), text: function(entry) { return entry.address; }, sort: function(entry) { return entry.address; } },
			{ title: _('Gateway'), text: function(entry) { return entry.context || '–'; }, sort: function(entry) { return entry.context || ''; } },
			{ title: _('Reference'), text: function(entry) { return entry.reference; }, sort: function(entry) { return entry.reference; } },
			{
				title: _('State'),
				text: function(entry) {
					const state = states[entry.state] || entry.state;
					return entry.source === undefined ? state : _('%s in %s').format(state, entry.source);
				},
				sort: function(entry) { return entry.state; }
			},
			{ title: _('Used before'), text: usedOf, sort: function(entry) { return entry.used === undefined ? 1e15 : entry.used; } },
			{ title: _('Ends in'), text: endOf, sort: function(entry) { return entry.expires_in === undefined ? 1e15 : entry.expires_in; } },
			{
				title: _('Actions'),
				sign: function(entry) { return String(entry.source); },
				draw: function(entry) {
					return entry.source !== 'user' ? [] : [ bus.change(_('Remove'), 'cbi-button-remove', function() {
						return bus.calls.removeMapping(entry.kind, entry.address, entry.reference).then(again);
					}) ];
				}
			}
		], { key: function(entry) { return String(entry.id); }, by: 0, empty: _('There is no such mapping.') });

		const peers = grid.create([
			{ title: _('Gateway'), text: function(peer) { return peer.context; }, sort: function(peer) { return peer.context; } },
			{ title: _('By packets'), text: function(peer) { return String(peer.by_packet); }, sort: function(peer) { return peer.by_packet; }, downward: true },
			{ title: _('By names'), text: function(peer) { return String(peer.by_name); }, sort: function(peer) { return peer.by_name; }, downward: true },
			{ title: _('Written down'), text: function(peer) { return String(peer.static); }, sort: function(peer) { return peer.static; }, downward: true },
			{ title: _('At rest'), text: function(peer) { return String(peer.resting); }, sort: function(peer) { return peer.resting; }, downward: true },
			{ title: _('Used before'), text: usedOf, sort: function(peer) { return peer.used === undefined ? 1e15 : peer.used; } }
		], { key: function(peer) { return peer.context; }, by: 0, empty: _('No other gateway is known.') });

		const drops = grid.create([
			{ title: _('Packets'), text: function(each) { return String(each.count); }, sort: function(each) { return each.count; }, downward: true },
			{ title: _('Reason'), text: function(each) { return each.reason; }, sort: function(each) { return each.reason; } }
		], { key: function(each) { return each.reason; }, by: 0, empty: _('No packet was dropped.') });

		/* Goes on to another page, or to the first one of others. */
		function turn(befores) {
			self.befores = befores;
			return again();
		}
		const back = bus.button(_('Back'), '', function() {
			return turn(self.befores.length > 1 ? self.befores.slice(0, -1) : self.befores);
		});
		const next = bus.button(_('Next'), '', function() {
			return turn(last > 0 ? self.befores.concat([ last ]) : self.befores);
		});
		const kind = bus.choice(_('Kind'), 'kind', [ [ '', _('of both kinds') ] ].concat(Object.entries(kinds)));
		const state = bus.choice(_('State'), 'state', [ [ '', _('in every state') ] ].concat(Object.entries(states)));
		const address = bus.field(_('Address'), 'address');
		const peer = bus.field(_('Gateway'), 'peer');
		const filter = function() {
			self.filter = {
				kind: optional(kind.value),
				state: optional(state.value),
				peer: optional(peer.value),
				address: optional(address.value)
			};
			self.befores = [ 0 ];
			return self.look().then(show);
		};

		const newKind = bus.guard(bus.choice(_('Kind'), 'new-kind', Object.entries(kinds)));
		const newAddress = bus.guard(bus.field(_('Address'), 'new-address'));
		const newContext = bus.guard(bus.field(_('Gateway (of theirs)'), 'new-context'));
		const newReference = bus.guard(bus.field(_('Reference'), 'new-reference', 40));
		const name = bus.guard(bus.field(_('Name'), 'name', 253));

		function add() {
			return bus.calls.addMapping(newKind.value, newAddress.value.trim(), optional(newContext.value), newReference.value.trim()).then(again);
		}

		function resolve() {
			const asked = name.value.trim();
			return bus.calls.resolveName(asked).then(function(answer) {
				const lines = (answer.addresses || []).map(function(each) {
					return each.reference === undefined ? each.address : _('%s, which is %s at %s').format(each.address, each.reference, each.context);
				});
				found.firstChild.data = lines.length > 0 ? _('%s: %s.').format(asked, lines.join('; ')) : _('%s has no address.').format(asked);
				return again();
			}, function(error) {
				found.firstChild.data = '';
				throw error;
			});
		}

		const body = E('div', { 'style': 'display:none' }, [
			E('div', { 'class': 'cbi-section' }, [ about ]),
			bus.section(_('Mappings'), [
				E('p', {}, [ kind, ' ', state, ' ', address, ' ', peer, ' ', bus.button(_('Show'), 'cbi-button-action', filter) ]),
				bus.scroller(table.node),
				E('p', {}, [ back, ' ', next, ' ', place ])
			]),
			bus.section(_('Write a mapping down'), [
				E('p', {}, [ _('Ours is the address of a host here, and the reference that others reach it by. Theirs is an address of the encoded ones, with the gateway and the reference that it stands for.') ]),
				E('p', {}, [ newKind, ' ', newAddress, ' ', newContext, ' ', newReference, ' ', bus.change(_('Add'), 'cbi-button-add', add) ])
			]),
			bus.section(_('Resolve a name'), [
				E('p', {}, [ name, ' ', bus.change(_('Resolve'), 'cbi-button-action', resolve) ]),
				found
			]),
			bus.section(_('Gateways'), [ bus.scroller(peers.node) ]),
			bus.section(_('Dropped packets'), [ bus.scroller(drops.node) ])
		]);

		/* All of it, or nothing while the part is off. */
		function show(answers) {
			body.style.display = answers ? '' : 'none';
			if (!answers)
				return;
			const entries = answers[1].mappings || [];
			bus.fill(about, [].concat(statusOf(answers[0])));
			table.update(entries);
			peers.update(answers[2]);
			drops.update(Object.entries(answers[3]).filter(function(each) { return each[1] > 0; }).map(function(each) {
				return { reason: each[0], count: each[1] };
			}));
			last = answers[1].more && entries.length > 0 ? entries[entries.length - 1].id : 0;
			/* A button that was pressed comes alive again by itself: it is hidden rather than dead. */
			back.style.visibility = self.befores.length < 2 ? 'hidden' : '';
			next.style.visibility = last === 0 ? 'hidden' : '';
			place.firstChild.data = _('Page %d').format(self.befores.length);
		}

		if (data === undefined)
			notice.show(true);
		else
			show(data);

		return E('div', {}, [
			E('h2', {}, [ _('IPREF') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Hosts of networks whose addresses are private, reached by a reference and the address of their gateway.')
			]),
			notice.node,
			self.part.node,
			body
		]);
	}
});
