'use strict';
'require baseclass';
'require dom';
'require gatehouse.words as words';

/*
 * A table that is drawn once and then touched only where something changed.
 *
 * Kept: by key, each row's element and what each of its cells shows. A cell of text keeps its text node; a cell of
 * elements is made anew when its sign changes. Rows that are filtered out are not in the document.
 *
 *     columns: [ { title, text: row => string } or { title, sign: row => string, draw: row => [ nodes ] },
 *                each with sort: row => number | string to be sortable, downward: true to begin with the greatest ]
 *     options: { key: row => string, by: column that sorts at first, empty: what to say of no rows,
 *                matches: row => boolean, made: (element, key) and dropped: (element, key) as rows come and go }
 */
function create(columns, options) {
	const rows = new Map();
	const state = { by: options.by || 0, down: columns[options.by || 0].downward === true };
	const heads = columns.map(function(column, at) {
		if (!column.sort)
			return E('th', { 'class': 'th', 'scope': 'col' }, [ column.title ]);
		return E('th', {
			'class': 'th',
			'scope': 'col',
			'tabindex': '0',
			'style': 'cursor:pointer',
			'click': function() { order(at); },
			'keydown': function(event) {
				if (event.key === 'Enter' || event.key === ' ') {
					event.preventDefault();
					order(at);
				}
			}
		}, [ column.title ]);
	});
	const placeholder = E('tr', { 'class': 'tr placeholder' }, [
		E('td', { 'class': 'td', 'colspan': String(columns.length) }, [ E('em', {}, [ options.empty ]) ])
	]);
	const head = E('tr', { 'class': 'tr table-titles' }, heads);
	const table = E('table', { 'class': 'table' }, [ head, placeholder ]);

	function order(at) {
		state.down = state.by === at ? !state.down : columns[at].downward === true;
		state.by = at;
		arrange();
	}

	function make(row) {
		const cells = columns.map(function(column) {
			return E('td', { 'class': 'td', 'data-title': column.title }, column.text ? [ '' ] : []);
		});
		const element = E('tr', { 'class': 'tr cbi-rowstyle-1', 'data-key': options.key(row) }, cells);
		return { row: row, element: element, cells: cells, signs: columns.map(function() { return null; }) };
	}

	function draw(held) {
		columns.forEach(function(column, at) {
			const sign = column.text ? column.text(held.row) : column.sign(held.row);
			if (held.signs[at] === sign)
				return;
			held.signs[at] = sign;
			if (column.text)
				held.cells[at].firstChild.data = sign;
			else
				dom.content(held.cells[at], [].concat(column.draw(held.row)));
		});
	}

	/* What is to be seen, in its order. */
	function chosen() {
		const sort = columns[state.by].sort;
		const shown = [];
		for (const held of rows.values())
			if (!options.matches || options.matches(held.row))
				shown.push({ held: held, value: sort(held.row) });
		shown.sort(function(left, right) {
			const result = words.compare(left.value, right.value);
			return (state.down ? -result : result) || words.compare(left.held.signs.key, right.held.signs.key);
		});
		return shown;
	}

	function arrange() {
		heads.forEach(function(element, at) {
			if (at === state.by)
				element.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
			else
				element.removeAttribute('aria-sort');
		});
		const wanted = new Set();
		const shown = chosen();
		shown.forEach(function(each) { wanted.add(each.held.element); });
		for (const held of rows.values())
			if (!wanted.has(held.element) && held.element.parentNode)
				held.element.parentNode.removeChild(held.element);
		let before = head;
		shown.forEach(function(each) {
			const element = each.held.element;
			draw(each.held);
			if (before.nextSibling !== element)
				table.insertBefore(element, before.nextSibling);
			before = element;
		});
		placeholder.style.display = shown.length > 0 ? 'none' : '';
		count = shown.length;
	}

	let count = 0;

	/* The rows as they are now: all of them. */
	function update(list) {
		const gone = new Set(rows.keys());
		list.forEach(function(row) {
			const key = options.key(row);
			gone.delete(key);
			const held = rows.get(key) || make(row);
			held.row = row;
			held.signs.key = key;
			if (!rows.has(key)) {
				rows.set(key, held);
				if (options.made)
					options.made(held.element, key);
			}
		});
		gone.forEach(function(key) {
			const held = rows.get(key);
			if (held.element.parentNode)
				held.element.parentNode.removeChild(held.element);
			if (options.dropped)
				options.dropped(held.element, key);
			rows.delete(key);
		});
		arrange();
	}

	return {
		node: table,
		update: update,
		/* After what is searched for has changed. */
		refresh: arrange,
		/* How many rows are to be seen. */
		shown: function() { return count; }
	};
}

return baseclass.extend({ create: create });
