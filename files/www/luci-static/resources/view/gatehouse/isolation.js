'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * Isolation: services on their segments, who may talk to whom, and why somebody may or may not.
 *
 * Kept: what is searched for.
 */

const lookSeconds = 5;

const arrows = { both: '↔', out: '→', in: '←' };
const directions = [
	[ 'both', _('both may begin') ],
	[ 'out', _('the service begins') ],
	[ 'in', _('the peer begins') ]
];

/* All services and pairs. */
function everybody() {
	const all = { services: [], pairs: [] };
	const next = function(after) {
		return bus.calls.services(after).then(function(answer) {
			for (const service of answer.services || [])
				all.services.push(service);
			for (const pair of answer.pairs || [])
				all.pairs.push(pair);
			return answer.more && answer.next !== after ? next(answer.next) : all;
		});
	};
	return next(undefined);
}

function look() {
	return Promise.all([ bus.calls.isolation(), everybody() ]);
}

/* Words between commas or blanks; nothing typed is no argument. */
function listOf(text) {
	const list = text.split(/[,\s]+/).filter(Boolean);
	return list.length > 0 ? list : undefined;
}

function stateOf(thing) {
	if (thing.state === 'active')
		return _('here');
	return _('not seen yet');
}

function pairStateOf(pair) {
	if (pair.state === 'active')
		return _('in force');
	return pair.waits_for ? _('waits for %s').format(pair.waits_for.join(', ')) : _('waits');
}

function portsOf(pair) {
	const ports = (pair.ports || [ _('all') ]).join(', ');
	return pair.ports_back ? _('%s; back: %s').format(ports, pair.ports_back.map(function(each) {
		return each === 'all' ? _('all') : each;
	}).join(', ')) : ports;
}

/* Badges: [ label, what it means ] of those that hold. */
function badges(list) {
	const drawn = [];
	list.forEach(function(each) {
		if (each)
			drawn.push(E('span', { 'class': 'ifacebadge', 'title': each[1] }, [ each[0] ]), ' ');
	});
	return drawn;
}

function marksOf(service) {
	return badges([
		service.declared && [ _('declared'), _('The configuration says that it is there.') ],
		service.guest && [ _('guest'), _('Nobody knows its name; it is called by its address.') ],
		service.privileged && [ _('privileged'), _('It may resolve and reach every service.') ],
		service.reachable_by_all && [ _('for all'), _('Every service may reach it.') ]
	]);
}

function originOf(pair) {
	return badges([
		pair.configured && [ _('configured'), _('The configuration says so.') ],
		pair.asked && [ _('asked for'), _('Somebody has connected them.') ],
		pair.outside && [ _('outside'), _('The peer is a name outside of this network.') ]
	]);
}

/* The agent gives a pair in order of its names; a name outside is always the peer here. */
function turned(pair, services) {
	if (!pair.outside || services.has(pair.name))
		return Object.assign({ key: pair.name + ' ' + pair.peer }, pair);
	return Object.assign({}, pair, {
		key: pair.name + ' ' + pair.peer,
		name: pair.peer,
		peer: pair.name,
		direction: { both: 'both', out: 'in', in: 'out' }[pair.direction]
	});
}

function prefixesOf(device) {
	return device.device + ' (' + (device.state === 'up' ? device.prefixes.join(', ') || _('no address') : _('missing')) + ')';
}

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		this.part = bus.part(_('Isolation is switched off. It is switched on by the option enabled of the section isolation, with a section segment for each part of the network.'));
		return L.resolveDefault(this.part.ask(look), undefined);
	},

	render: function(data) {
		const part = this.part;
		const notice = bus.notice();
		const counts = E('p', { 'style': 'overflow-wrap:anywhere' }, [ '' ]);
		const privileged = E('p', { 'style': 'overflow-wrap:anywhere' }, [ '' ]);
		const verdict = E('div', { 'aria-live': 'polite', 'style': 'overflow-wrap:anywhere' });
		let text = '';

		const again = bus.watch(function() {
			return part.ask(look).then(show);
		}, lookSeconds, notice);

		const matches = function(names) {
			return text === '' || names.join('\n').toLowerCase().includes(text);
		};

		const segments = grid.create([
			{ title: _('Segment'), text: function(each) { return each.name; }, sort: function(each) { return each.name; } },
			{ title: _('Links'), text: function(each) { return each.devices.map(prefixesOf).join(', ') || '–'; } }
		], { key: function(each) { return each.name; }, by: 0, empty: _('There is no segment.') });

		const services = grid.create([
			{ title: _('Service'), text: function(each) { return each.name; }, sort: function(each) { return each.name; } },
			{ title: _('Segment'), text: function(each) { return each.segment || '–'; }, sort: function(each) { return each.segment || ''; } },
			{ title: _('State'), text: stateOf, sort: stateOf },
			{ title: _('Addresses'), text: function(each) { return each.addresses.join(', ') || '–'; } },
			{ title: _('Stand-ins'), text: function(each) { return (each.standins || []).join(', ') || '–'; } },
			{ title: _('Known'), sign: function(each) { return JSON.stringify([ each.declared, each.guest, each.privileged, each.reachable_by_all ]); }, draw: marksOf }
		], {
			key: function(each) { return each.name; },
			by: 0,
			empty: _('There is no service.'),
			matches: function(each) { return matches([ each.name, each.segment ].concat(each.addresses, each.standins)); }
		});

		const pairs = grid.create([
			{ title: _('Service'), text: function(pair) { return pair.name; }, sort: function(pair) { return pair.name; } },
			{ title: _('Begins'), text: function(pair) { return arrows[pair.direction] || pair.direction; }, sort: function(pair) { return pair.direction; } },
			{ title: _('Peer'), text: function(pair) { return pair.peer; }, sort: function(pair) { return pair.peer; } },
			{ title: _('Ports'), text: portsOf },
			{ title: _('State'), text: pairStateOf, sort: function(pair) { return pair.state; } },
			{ title: _('Set by'), sign: function(pair) { return JSON.stringify([ pair.configured, pair.asked, pair.outside ]); }, draw: originOf },
			{
				title: _('Actions'),
				sign: function() { return ''; },
				draw: function(pair) {
					return [ bus.change(_('Disconnect'), 'cbi-button-negative', function() {
						return bus.calls.disconnect(pair.name, pair.peer).then(again);
					}) ];
				}
			}
		], {
			key: function(pair) { return pair.key; },
			by: 0,
			empty: _('Nobody may talk to anybody.'),
			matches: function(pair) { return matches([ pair.name, pair.peer ]); }
		});

		function show(answers) {
			body.style.display = answers ? '' : 'none';
			if (!answers)
				return;
			const status = answers[0];
			segments.update(status.segments || []);
			services.update(answers[1].services);
			const names = new Set(answers[1].services.map(function(each) { return each.name; }));
			pairs.update(answers[1].pairs.map(function(pair) { return turned(pair, names); }));
			counts.firstChild.data = _('%d services are here; %d pairs, of which %d wait for somebody.').format(status.services, status.pairs, status.pending);
			privileged.firstChild.data = (status.privileged || []).length > 0
				? _('Privileged: %s').format(status.privileged.join(', '))
				: _('Nobody is privileged.');
			if (status.bootstrap)
				privileged.firstChild.data += ' ' + _('Everybody on %s is, for another %s.').format(status.bootstrap.segment, words.span(status.bootstrap.ends_in));
		}

		const search = E('input', {
			'type': 'search',
			'class': 'cbi-input-text',
			'placeholder': _('Name or address'),
			'aria-label': _('Search'),
			'input': function(event) {
				text = event.target.value.trim().toLowerCase();
				services.refresh();
				pairs.refresh();
			}
		});
		const name = bus.guard(bus.field(_('Service'), 'name', 253));
		const peers = bus.guard(bus.field(_('Peers, such as db or *.example.com'), 'peers', 2000));
		const ports = bus.guard(bus.field(_('Ports, such as tcp/443 (optional)'), 'ports', 1000));
		const direction = bus.guard(bus.choice(_('Direction'), 'direction', directions));
		const from = bus.field(_('From: name or address'), 'from', 253);
		const to = bus.field(_('To: name or stand-in'), 'to', 253);

		function connect() {
			return bus.calls.connect(name.value.trim(), listOf(peers.value) || [], listOf(ports.value), direction.value).then(again);
		}

		function explain() {
			return bus.calls.explainServices(from.value.trim(), to.value.trim()).then(function(answer) {
				const sentence = answer.verdict === 'pass'
					? _('%s may begin to talk to %s.').format(answer.from, answer.to)
					: _('%s may not begin to talk to %s.').format(answer.from, answer.to);
				const lines = [].concat(answer.reasons || [],
					answer.ports ? [ _('Ports: %s').format(answer.ports.join(', ')) ] : [],
					answer.standins ? [ _('Written to: %s').format(answer.standins.join(', ')) ] : []);
				bus.fill(verdict, [
					E('h4', {}, [ sentence ]),
					E('ul', {}, lines.map(function(line) { return E('li', {}, [ line ]); }))
				]);
			}, function(error) {
				bus.fill(verdict, []);
				throw error;
			});
		}

		const body = E('div', { 'style': 'display:none' }, [
			E('div', { 'class': 'cbi-section' }, [ counts, privileged, bus.scroller(segments.node) ]),
			bus.section(_('Services'), [ E('p', {}, [ search ]), bus.scroller(services.node) ]),
			bus.section(_('Who may talk to whom'), [ bus.scroller(pairs.node) ]),
			bus.section(_('Connect'), [
				E('p', {}, [ name, ' ', peers, ' ', ports, ' ', direction, ' ', bus.change(_('Connect'), 'cbi-button-add', connect) ])
			]),
			bus.section(_('Explain'), [
				E('p', {}, [ from, ' ', to, ' ', bus.button(_('Explain'), 'cbi-button-action', explain) ]),
				verdict
			])
		]);

		if (data === undefined)
			notice.show(true);
		else
			show(data);

		return E('div', {}, [
			E('h2', {}, [ _('Isolation') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Services that are kept apart: each reaches only whom it is connected with, and under addresses that stand in for theirs.')
			]),
			notice.node,
			part.node,
			body
		]);
	}
});
