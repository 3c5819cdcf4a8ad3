// What dashboard.json is checked against, as Grafana publishes it. A panel's options and its fields' own
// settings have a type for each kind of panel; kinds that are not here are refused.
import type { AnnotationQuery, Dashboard, Panel } from '@grafana/schema';
import type * as raw from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// Prometheus' part of a query is in its plugin, not in @grafana/schema: these are the fields in use.
interface Query {
  refId: string;
  datasource: { type: 'prometheus'; uid: string };
  editorMode?: 'code' | 'builder';
  expr: string;
  legendFormat?: string;
  range?: boolean;
  instant?: boolean;
  exemplar?: boolean;
  format?: 'time_series' | 'table' | 'heatmap';
}

type Kind<Type extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Options;
  fieldConfig?: Omit<raw.FieldConfigSource, 'defaults'> & { defaults: Omit<raw.FieldConfig, 'custom'> & { custom?: Custom } };
  targets?: Query[];
};

export interface Kinds {
  stat: Kind<'stat', stat.Options, never>;
  table: Kind<'table', table.Options, table.FieldConfig>;
  text: Kind<'text', text.Options, never>;
  timeseries: Kind<'timeseries', timeseries.Options, timeseries.FieldConfig>;
  row: raw.RowPanel;
}

export type Whole = Omit<Dashboard, 'panels' | 'annotations'> & { annotations: { list: AnnotationQuery<Query>[] } };
