import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { repoRoot } from '../../helpers/repo.ts';

t.test('links between the documents lead to files', async (t) => {
  const pages = ['', 'docs', 'examples'].flatMap((dir) =>
    readdirSync(path.join(repoRoot, dir))
      .filter((name) => name.endsWith('.md'))
      .map((name) => path.join(dir, name)),
  );
  t.ok(pages.includes('README.md'));
  t.strictSame(
    pages.flatMap((page) => findLinks(page).filter((target) => !existsSync(path.join(repoRoot, path.dirname(page), target)))),
    [],
  );
});

/** Targets of a page's links to other files, without their anchors. */
function findLinks(page: string): string[] {
  const text = readFileSync(path.join(repoRoot, page), 'utf8');
  return [...text.matchAll(/\]\(([^)#\s]+)/g)].map(([, target = '']) => target).filter((target) => !/^[a-z]+:/.test(target));
}
