'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.words as words';

/*
 * Explain: why packets from one end to another pass, or don't.
 *
 * Keeps nothing.
 */

function sentence(verdict) {
	switch (verdict) {
	case 'pass':
		return _('Packets pass.');
	case 'drop':
		return _('Packets are dropped.');
	case 'mixed':
		return _('Some packets pass, others are dropped.');
	default:
		return _('No packet can go from the one to the other.');
	}
}

function endOf(end) {
	const names = (end.nodes || []).map(function(node) {
		return node.name ? words.domain(node.name) + ' (#' + node.id + ')' : '#' + node.id;
	});
	return (names.join(', ') || _('nobody we know')) + (end.addresses.length > 0 ? ': ' + end.addresses.join(', ') : '');
}

/* What an entry says; a node or an address on a list, or a pair. */
function wordsOf(pair, list, node, address) {
	if (pair)
		return _('The pair #%d and #%d is blocked.').format(pair[0], pair[1]);
	return node !== undefined
		? _('#%d is on the list %s.').format(node, list)
		: _('%s is on the list %s.').format(address, list);
}

function entryOf(entry) {
	const pair = entry.node1 !== undefined ? [ entry.node1, entry.node2 ] : undefined;
	const by = entry.by ? ' ' + _('Set by %s.').format(entry.by) : '';
	return wordsOf(pair, entry.list, entry.node, entry.address) + by + ' ' +
		_('%d packets hit, the last one %s.').format(entry.hits || 0, words.ago(entry.last_hit));
}

function entries(title, list) {
	return list.length === 0 ? [] : [
		E('h4', {}, [ title ]),
		E('ul', {}, list.map(function(entry) { return E('li', {}, [ entryOf(entry) ]); }))
	];
}

/* Why one packet fares as it does, and the rules of the kernel that say so. */
function reasonOf(reason) {
	const list = reason.kind === 'exempt' ? 'allow' : 'block';
	const rules = (reason.places || []).map(function(place) {
		return E('li', {}, [ E('code', {}, [ [ place.table, place.chain, place.rule ].filter(Boolean).join(' · ') ]) ]);
	});
	return E('li', {}, [ wordsOf(reason.pair, list, reason.node, reason.net), E('ul', {}, [].concat(rules)) ]);
}

function answerOf(answer) {
	const decisions = answer.decisions;
	return [
		E('h3', {}, [ sentence(answer.verdict) ]),
		E('p', {}, [ _('From %s').format(endOf(answer.from)) ]),
		E('p', {}, [ _('To %s').format(endOf(answer.to)) ])
	].concat(
		answer.why ? [ E('p', {}, [ String(answer.why) ]) ] : [],
		entries(_('Allowed by'), decisions.allowed_by),
		entries(_('Blocked by'), decisions.blocked_by),
		entries(_('Hidden by'), decisions.hidden_by),
		answer.packets.length === 0 ? [] : [
			E('h4', {}, [ _('Packets') ]),
			E('ul', { 'style': 'overflow-wrap:anywhere' }, answer.packets.map(function(packet) {
				return E('li', {}, [
					packet.source + ' → ' + packet.destination + ': ' + sentence(packet.verdict),
					E('ul', {}, (packet.reasons || []).map(reasonOf))
				]);
			}))
		]
	);
}

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	render: function() {
		const place = E('div', { 'class': 'cbi-section', 'aria-live': 'polite' });
		const field = function(label, name) {
			return E('input', {
				'type': 'text',
				'class': 'cbi-input-text',
				'name': name,
				'placeholder': label,
				'aria-label': label,
				'maxlength': '1010'
			});
		};
		const from = field(_('From: name, address, MAC or id'), 'from');
		const to = field(_('To: name, address, MAC or id'), 'to');
		return E('div', {}, [
			E('h2', {}, [ _('Explain') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Whether packets from one end to another pass, and by whose word.')
			]),
			E('p', {}, [
				from, ' ', to, ' ',
				bus.button(_('Explain'), 'cbi-button-action', function() {
					return bus.calls.explain(from.value.trim(), to.value.trim()).then(function(answer) {
						bus.fill(place, [].concat(answerOf(answer)));
					});
				})
			]),
			place
		]);
	}
});
