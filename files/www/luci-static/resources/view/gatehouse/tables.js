'use strict';
'require view';
'require gatehouse.bus as bus';
'require gatehouse.grid as grid';
'require gatehouse.words as words';

/*
 * Tables: routing tables on lease, who has them and until when.
 *
 * Keeps the leases of the last look. The end of one counts down between looks.
 */

const lookSeconds = 5;
const families = { inet: 'IPv4', inet6: 'IPv6', unspec: _('any') };

/* All leases: an answer holds some thousands. */
function allLeases() {
	const all = [];
	const next = function(after) {
		return bus.calls.leases(after).then(function(answer) {
			const part = answer.leases || [];
			for (const lease of part)
				all.push(lease);
			return answer.more && part.length > 0 ? next(part[part.length - 1].table) : all;
		});
	};
	return next(-1);
}

function keyOf(lease) {
	return lease.family + ' ' + lease.table;
}

/* Who makes the rules that lead to a table. */
function steeringOf(lease) {
	if (lease.netifd)
		return _('netifd');
	if (!lease.rules)
		return _('its owner');
	return lease.routes ? _('gatehouse, with routes') : _('gatehouse');
}

return view.extend({
	handleSave: null,
	handleSaveApply: null,
	handleReset: null,

	load: function() {
		return L.resolveDefault(allLeases(), null);
	},

	render: function(leases) {
		const notice = bus.notice();
		const count = E('p', {}, [ '' ]);

		const look = bus.watch(function() {
			return allLeases().then(show);
		}, lookSeconds, notice);

		const table = grid.create([
			{
				title: _('Table'),
				text: function(lease) { return String(lease.table); },
				sort: function(lease) { return lease.table; }
			},
			{
				title: _('Family'),
				text: function(lease) { return families[lease.family] || lease.family; },
				sort: function(lease) { return lease.family; }
			},
			{
				title: _('Interface'),
				text: function(lease) { return lease.interface; },
				sort: function(lease) { return lease.interface; }
			},
			{
				title: _('Address'),
				text: function(lease) { return lease.address || _('all of the interface'); },
				sort: function(lease) { return lease.address; }
			},
			{
				title: _('Purpose'),
				text: function(lease) { return lease.tag || lease.label || '–'; },
				sort: function(lease) { return lease.tag || lease.label || ''; }
			},
			{
				title: _('Owner'),
				text: function(lease) { return lease.owner || _('nobody we know'); },
				sort: function(lease) { return lease.owner; }
			},
			{ title: _('Rules made by'), text: steeringOf, sort: steeringOf },
			{
				title: _('Ends in'),
				text: function(lease) { return lease.follow ? _('with its address') : words.span(lease.expires_in); },
				sort: function(lease) { return lease.expires_in; }
			},
			{ title: _('Missing'), text: function(lease) { return lease.missing || '–'; } },
			{
				title: _('Actions'),
				sign: function() { return ''; },
				draw: function(lease) {
					return [ E('div', { 'style': 'white-space:nowrap' }, [
						bus.change(_('Renew'), 'cbi-button-action', function() {
							return bus.calls.renew(lease.family, lease.table).then(look);
						}),
						' ',
						bus.change(_('Release'), 'cbi-button-negative', function() {
							return bus.calls.release(lease.family, lease.table).then(look);
						})
					]) ];
				}
			}
		], { key: keyOf, by: 0, empty: _('No table is leased.') });

		function show(list) {
			table.update(list);
			count.firstChild.data = _('Leased tables: %d').format(list.length);
		}

		function field(label, name) {
			return bus.guard(E('input', {
				'type': 'text',
				'class': 'cbi-input-text',
				'name': name,
				'placeholder': label,
				'aria-label': label,
				'maxlength': '64'
			}));
		}
		const family = bus.guard(E('select', { 'class': 'cbi-input-select', 'name': 'family', 'aria-label': _('Family') },
			Object.keys(families).map(function(each) { return E('option', { 'value': each }, [ families[each] ]); })));
		const name = field(_('Interface'), 'interface');
		const address = field(_('Address (optional)'), 'address');
		const purpose = field(_('Purpose (optional)'), 'tag');

		function request() {
			return bus.calls.lease(family.value, name.value.trim(), address.value.trim() || undefined,
				purpose.value.trim() || undefined).then(look);
		}

		if (leases)
			show(leases);
		else
			notice.show(true);

		return E('div', {}, [
			E('h2', {}, [ _('Tables') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Routing tables on lease: for an interface, or one address of it, there is a table of its own, with rules that lead to it, until the lease ends.')
			]),
			notice.node,
			E('div', { 'class': 'cbi-section' }, [
				count,
				E('div', { 'style': 'overflow-x:auto' }, [ table.node ])
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Lease a table') ]),
				E('p', {}, [
					family, ' ', name, ' ', address, ' ', purpose, ' ',
					bus.change(_('Lease'), 'cbi-button-add', request)
				])
			])
		]);
	}
});
