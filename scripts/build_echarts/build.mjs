// npm ci && npm run build: writes echarts.min.js and its licences into src/datumwise/report/assets.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const assets = join(here, "../../src/datumwise/report/assets");
const modules = join(here, "node_modules");
const version = (name) => JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")).version;

const result = await build({
  entryPoints: [join(here, "entry.js")],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "echarts",
  target: "es2020",
  charset: "utf8",
  legalComments: "none",
  define: { "process.env.NODE_ENV": '"production"' },
  write: false,
});
const banner =
  `/* Apache ECharts ${version("echarts")} (Apache-2.0, see LICENSE.echarts and NOTICE.echarts) ` +
  `with zrender ${version("zrender")} (BSD-3-Clause, see LICENSE.zrender), d3 parts (BSD-3-Clause, see LICENSE.d3) ` +
  `and tslib ${version("tslib")} (0BSD). Built by scripts/build_echarts. */\n`;
// A closing script tag inside the bundle would end the page's script element.
const code = result.outputFiles[0].text.replaceAll("</script", "<\\/script");
writeFileSync(join(assets, "echarts.min.js"), banner + code);
copyFileSync(join(modules, "echarts/LICENSE"), join(assets, "LICENSE.echarts"));
copyFileSync(join(modules, "echarts/NOTICE"), join(assets, "NOTICE.echarts"));
copyFileSync(join(modules, "zrender/LICENSE"), join(assets, "LICENSE.zrender"));
copyFileSync(join(modules, "echarts/licenses/LICENSE-d3"), join(assets, "LICENSE.d3"));
console.log(`echarts.min.js  ${Math.round(code.length / 1000)} kB`);
