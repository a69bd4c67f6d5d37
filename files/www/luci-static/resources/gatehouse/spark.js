'use strict';
'require baseclass';

/*
 * The last day of a device as a small line: bytes in above the middle, bytes out below it.
 */

const space = 'http://www.w3.org/2000/svg';
const width = 96;
const height = 24;

/* A bar for each value, from the middle; the scale is by the root, so that small amounts are seen. */
function bars(values, most, sign) {
	const middle = height / 2;
	const step = width / values.length;
	return values.map(function(value, at) {
		const end = middle - sign * Math.sqrt(value / most) * (middle - 1);
		return value > 0
			? 'M' + (at * step).toFixed(1) + ' ' + middle + 'V' + end.toFixed(1) + 'h' + step.toFixed(1) + 'V' + middle
			: '';
	}).join('');
}

function draw(series, label) {
	const svg = document.createElementNS(space, 'svg');
	svg.setAttribute('viewBox', '0 0 ' + width + ' ' + height);
	svg.setAttribute('width', String(width));
	svg.setAttribute('height', String(height));
	svg.setAttribute('role', 'img');
	svg.setAttribute('aria-label', label);
	const most = Math.max(1, Math.max.apply(null, series.in), Math.max.apply(null, series.out));
	[ [ series.in, 1, '0.75' ], [ series.out, -1, '0.4' ] ].forEach(function(each) {
		const path = document.createElementNS(space, 'path');
		path.setAttribute('d', 'M0 ' + height / 2 + 'h' + width + bars(each[0], most, each[1]));
		path.setAttribute('fill', 'currentColor');
		path.setAttribute('stroke', 'currentColor');
		path.setAttribute('stroke-width', '0.3');
		path.setAttribute('opacity', each[2]);
		svg.appendChild(path);
	});
	return svg;
}

return baseclass.extend({ draw: draw });
