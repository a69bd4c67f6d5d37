'use strict';
'require baseclass';
'require dom';
'require gatehouse.words as words';

/*
 * Who talks to whom, as bubbles and lines: what talks with each other draws near, everything else keeps its distance.
 *
 * Kept: by node its place and elements, by pair its line. Nothing moves once all has found its place, and so
 * nothing is computed while a page is left open; a new bubble begins beside one that it talks to.
 *
 *     options: { pick: pair or undefined => called when a line or a bubble is chosen }
 */

const space = 'http://www.w3.org/2000/svg';
const margin = 24;
/* A few bubbles need less room than many, and a phone is high rather than wide. */
const rooms = {
	wide: { few: [ 960, 300 ], many: [ 960, 540 ] },
	narrow: { few: [ 420, 320 ], many: [ 540, 720 ] }
};
const narrow = '(max-width: 600px)';
const fewMost = 24;
/* How lively it is: from 1 down to where it stops. */
const cooling = 0.98;
const still = 0.02;
const spring = 0.06;
const distance = 70;
const repulsion = 1500;
const gravity = 0.012;
/* Room for a bubble and its name; where there is more, all keep a greater distance, up to so many times as much. */
const crowded = 85;
const loosest = 1.9;
/* Bubbles farther apart than this leave each other alone. */
const reach = 400;
/* Bubbles with a name beside them, however many there are. */
const namedMost = 60;

const colours = { ours: '#3b82c4', far: '#7a8794', blocked: '#d0453b' };

function element(name, attributes) {
	const made = document.createElementNS(space, name);
	Object.keys(attributes).forEach(function(key) { made.setAttribute(key, attributes[key]); });
	return made;
}

function create(options) {
	const bubbles = new Map();
	const lines = new Map();
	const lineLayer = element('g', { 'stroke-linecap': 'round' });
	const bubbleLayer = element('g', {});
	const svg = element('svg', {
		'role': 'group',
		'aria-label': _('Who talks to whom'),
		'style': 'width:100%;height:auto;max-height:70vh;touch-action:manipulation'
	});
	/* While all moves, lines are two strokes: one of those that pass, one of the blocked. */
	const moving = {
		passing: element('path', { 'stroke': colours.far, 'stroke-opacity': '0.6', 'fill': 'none' }),
		blocked: element('path', { 'stroke': colours.blocked, 'fill': 'none' })
	};
	svg.appendChild(moving.passing);
	svg.appendChild(moving.blocked);
	svg.appendChild(lineLayer);
	svg.appendChild(bubbleLayer);
	let width = 0;
	let height = 0;
	let heat = 0;
	let frame = 0;
	/* A place that is the same each time, for bubbles with no neighbour yet. */
	let turn = 0;

	function onChoose(target, choose) {
		target.addEventListener('click', choose);
		target.addEventListener('keydown', function(event) {
			if (event.key === 'Enter' || event.key === ' ') {
				event.preventDefault();
				choose();
			}
		});
	}

	function makeBubble(node, near) {
		turn += 2.399963;
		const from = near || { x: width / 2, y: height / 2 };
		const spread = near ? 40 : 60 + 10 * Math.sqrt(bubbles.size);
		const bubble = {
			id: node.id,
			x: from.x + spread * Math.cos(turn),
			y: from.y + spread * Math.sin(turn),
			vx: 0, vy: 0,
			name: null,
			group: element('g', { 'class': 'gatehouse-bubble', 'data-node': String(node.id), 'tabindex': '0', 'role': 'button', 'style': 'cursor:pointer' }),
			circle: element('circle', {}),
			title: element('title', {}),
			label: element('text', { 'fill': 'currentColor', 'font-size': '12', 'text-anchor': 'middle' })
		};
		bubble.title.appendChild(document.createTextNode(''));
		bubble.label.appendChild(document.createTextNode(''));
		bubble.group.appendChild(bubble.title);
		bubble.group.appendChild(bubble.circle);
		bubble.group.appendChild(bubble.label);
		onChoose(bubble.group, function() { options.pick({ node: bubble.id }); });
		bubbleLayer.appendChild(bubble.group);
		return bubble;
	}

	function dressBubble(bubble, node, isNamed) {
		const name = words.name(node);
		const ours = words.isOurs(node);
		const size = ours ? 9 : 6;
		const dress = JSON.stringify([ name, ours, isNamed, node.is_blocked ]);
		if (bubble.dress === dress)
			return;
		bubble.dress = dress;
		bubble.title.firstChild.data = name;
		bubble.label.firstChild.data = isNamed ? (name.length > 28 ? name.slice(0, 27) + '…' : name) : '';
		bubble.label.setAttribute('y', String(-size - 4));
		bubble.circle.setAttribute('r', String(size));
		bubble.circle.setAttribute('fill', node.is_blocked ? colours.blocked : ours ? colours.ours : colours.far);
		bubble.group.setAttribute('aria-label', name);
	}

	function makeLine(pair) {
		const line = { pair: pair, dress: null };
		/* The broad one can be hit, the thin one is seen. */
		line.group = element('g', { 'class': 'gatehouse-line', 'data-pair': pair.key, 'tabindex': '0', 'role': 'button', 'style': 'cursor:pointer' });
		line.seen = element('line', {});
		line.hit = element('line', { 'stroke': 'transparent', 'stroke-width': '12' });
		line.title = element('title', {});
		line.title.appendChild(document.createTextNode(''));
		line.group.appendChild(line.title);
		line.group.appendChild(line.seen);
		line.group.appendChild(line.hit);
		onChoose(line.group, function() { options.pick({ pair: line.pair }); });
		lineLayer.appendChild(line.group);
		return line;
	}

	function dressLine(line, one, other) {
		const pair = line.pair;
		const text = words.name(one) + ' – ' + words.name(other);
		const thick = pair.blocked ? 2 : 1 + Math.min(4, Math.log10(1 + pair.bytes) / 2);
		const dress = text + ' ' + pair.blocked + ' ' + thick.toFixed(1);
		if (line.dress === dress)
			return;
		line.dress = dress;
		line.title.firstChild.data = text;
		line.group.setAttribute('aria-label', text);
		line.seen.setAttribute('stroke', pair.blocked ? colours.blocked : colours.far);
		line.seen.setAttribute('stroke-dasharray', pair.blocked ? '5 4' : 'none');
		line.seen.setAttribute('stroke-opacity', pair.blocked ? '1' : '0.6');
		line.seen.setAttribute('stroke-width', thick.toFixed(1));
	}

	function step() {
		const all = Array.from(bubbles.values());
		const loose = Math.min(loosest, Math.max(1, Math.sqrt(width * height / Math.max(1, all.length)) / crowded));
		for (let at = 0; at < all.length; at++) {
			const one = all[at];
			for (let next = at + 1; next < all.length; next++) {
				const other = all[next];
				const dx = one.x - other.x || 0.1;
				const dy = one.y - other.y || 0.1;
				const square = dx * dx + dy * dy;
				if (square > reach * reach)
					continue;
				const push = repulsion * loose * loose * loose * heat / Math.max(100, square) / Math.sqrt(square);
				one.vx += dx * push;
				one.vy += dy * push;
				other.vx -= dx * push;
				other.vy -= dy * push;
			}
			one.vx += (width / 2 - one.x) * gravity * heat;
			one.vy += (height / 2 - one.y) * gravity * heat * width / height;
		}
		lines.forEach(function(line) {
			const one = bubbles.get(line.pair.from);
			const other = bubbles.get(line.pair.to);
			const dx = other.x - one.x || 0.1;
			const dy = other.y - one.y || 0.1;
			const far = Math.sqrt(dx * dx + dy * dy);
			const pull = (far - distance * loose) * spring * heat / far;
			one.vx += dx * pull;
			one.vy += dy * pull;
			other.vx -= dx * pull;
			other.vy -= dy * pull;
		});
		all.forEach(function(bubble) {
			bubble.vx *= 0.6;
			bubble.vy *= 0.6;
			bubble.x = Math.min(width - margin, Math.max(margin, bubble.x + bubble.vx));
			bubble.y = Math.min(height - margin, Math.max(margin, bubble.y + bubble.vy));
		});
		heat *= cooling;
	}

	function round(value) {
		return Math.round(value * 10) / 10;
	}

	function placeBubbles() {
		bubbles.forEach(function(bubble) {
			bubble.group.setAttribute('transform', 'translate(' + round(bubble.x) + ' ' + round(bubble.y) + ')');
		});
	}

	/* All lines in two strokes. */
	function strokeLines() {
		const strokes = { passing: [], blocked: [] };
		lines.forEach(function(line) {
			const one = bubbles.get(line.pair.from);
			const other = bubbles.get(line.pair.to);
			(line.pair.blocked ? strokes.blocked : strokes.passing).push(
				'M' + round(one.x) + ' ' + round(one.y) + 'L' + round(other.x) + ' ' + round(other.y));
		});
		moving.passing.setAttribute('d', strokes.passing.join(''));
		moving.blocked.setAttribute('d', strokes.blocked.join(''));
	}

	function placeLines() {
		lines.forEach(function(line) {
			const one = bubbles.get(line.pair.from);
			const other = bubbles.get(line.pair.to);
			[ line.seen, line.hit ].forEach(function(each) {
				each.setAttribute('x1', round(one.x));
				each.setAttribute('y1', round(one.y));
				each.setAttribute('x2', round(other.x));
				each.setAttribute('y2', round(other.y));
			});
		});
	}

	/* Lines that can be chosen are there once nothing moves. */
	function rest() {
		placeLines();
		moving.passing.setAttribute('d', '');
		moving.blocked.setAttribute('d', '');
		lineLayer.style.display = '';
		svg.setAttribute('data-still', '1');
	}

	function run() {
		frame = 0;
		step();
		step();
		placeBubbles();
		if (heat > still) {
			strokeLines();
			frame = requestAnimationFrame(run);
		} else
			rest();
	}

	function warm(to) {
		heat = Math.max(heat, to);
		svg.removeAttribute('data-still');
		lineLayer.style.display = 'none';
		if (!frame)
			frame = requestAnimationFrame(run);
	}

	/*
	 * What is to be shown now. pairs: [ { key, from, to, bytes, blocked } ], whose nodes are all in the map.
	 */
	function update(pairs, nodes) {
		let isNew = false;
		const wanted = new Set();
		const keys = new Set();
		const degrees = new Map();
		pairs.forEach(function(pair) {
			keys.add(pair.key);
			[ pair.from, pair.to ].forEach(function(id) {
				wanted.add(id);
				degrees.set(id, (degrees.get(id) || 0) + 1);
			});
		});
		Array.from(lines.keys()).forEach(function(key) {
			if (keys.has(key))
				return;
			lines.get(key).group.remove();
			lines.delete(key);
		});
		Array.from(bubbles.keys()).forEach(function(id) {
			if (wanted.has(id))
				return;
			bubbles.get(id).group.remove();
			bubbles.delete(id);
		});
		const shape = matchMedia(narrow).matches ? rooms.narrow : rooms.wide;
		const room = wanted.size > fewMost ? shape.many : shape.few;
		if (room[0] !== width || room[1] !== height) {
			width = room[0];
			height = room[1];
			svg.setAttribute('viewBox', '0 0 ' + width + ' ' + height);
			isNew = true;
		}
		pairs.forEach(function(pair) {
			[ [ pair.from, pair.to ], [ pair.to, pair.from ] ].forEach(function(each) {
				if (bubbles.has(each[0]))
					return;
				bubbles.set(each[0], makeBubble(nodes.get(each[0]), bubbles.get(each[1])));
				isNew = true;
			});
			const line = lines.get(pair.key) || makeLine(pair);
			if (!lines.has(pair.key)) {
				lines.set(pair.key, line);
				isNew = true;
			}
			line.pair = pair;
			dressLine(line, nodes.get(pair.from), nodes.get(pair.to));
		});
		const byDegree = Array.from(wanted).sort(function(left, right) { return degrees.get(right) - degrees.get(left); });
		const named = new Set(byDegree.slice(0, namedMost));
		bubbles.forEach(function(bubble, id) { dressBubble(bubble, nodes.get(id), named.has(id)); });
		if (isNew)
			warm(heat === 0 ? 1 : 0.3);
	}

	return { node: svg, update: update };
}

return baseclass.extend({ create: create });
