'use strict';
'require baseclass';
'require gatehouse.bus as bus';

/*
 * What LuCI's status page says of gatehouse, and the way to its pages.
 *
 * Kept: whether the agent has answered since the page was opened. LuCI calls load() and render() anew now and again;
 * who may not ask the agent sees nothing.
 */

function row(title, children) {
	return E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td left', 'width': '33%' }, [ title ]),
		E('td', { 'class': 'td left' }, [].concat(children))
	]);
}

function link(page, text) {
	return E('a', { 'href': L.url('admin/services/gatehouse', page) }, [ text ]);
}

/* What is wrong with it, in its own words. */
function complaintsOf(status) {
	return [].concat(status.damaged || [], status.storage || [], status.limits || [], status.unseen || []).map(function(each) {
		return typeof(each) === 'string' ? each : [ each.what, each.effect ].filter(Boolean).join(': ');
	});
}

return baseclass.extend({
	title: 'gatehouse',

	load: function() {
		return L.resolveDefault(bus.calls.status(), null);
	},

	render: function(status) {
		/* LuCI leaves what it has shown where nothing new comes: numbers that are no longer true. */
		if (!status)
			return this.answered ? E('em', {}, [ _('gatehouse does not answer. Is the service running?') ]) : null;
		this.answered = true;
		const kinds = status.nodes && status.nodes.byKind || {};
		const flows = status.flows || {};
		const complaints = complaintsOf(status);
		const rows = [
			row(_('Devices'), [ link('devices', String((kinds.device || 0) + (kinds.local || 0))) ]),
			row(_('Blocked pairs'), [ link('flows', String(flows.blocks || 0)) ]),
			row(_('Leased tables'), [ link('tables', String(status.tables && status.tables.leases || 0)) ]),
			row(_('Neighbours'), [ link('neighbours', String(status.neighbours && status.neighbours.entries || 0)) ]),
			row(_('Broker'), [ status.mqtt && status.mqtt.connected ? _('connected') : _('not connected') ])
		];
		if (complaints.length > 0)
			rows.push(row(_('To be looked at'), [ E('ul', { 'style': 'margin:0;overflow-wrap:anywhere' }, complaints.map(function(each) {
				return E('li', {}, [ each ]);
			})) ]));
		return E('table', { 'class': 'table' }, rows);
	}
});
