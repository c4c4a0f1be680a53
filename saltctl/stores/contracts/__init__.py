"""What operations may expect of a store: values, semantics and errors. No client library is imported here.

Every implementation, the real ones and those in memory, keeps what these docstrings say; the protocol is proved
against them (tests/model).
"""

from saltctl.stores.contracts.backup import BackupEntry as BackupEntry
from saltctl.stores.contracts.backup import BackupPage as BackupPage
from saltctl.stores.contracts.backup import BackupStore as BackupStore
from saltctl.stores.contracts.backup import DamagedEntry as DamagedEntry
from saltctl.stores.contracts.backup import LeaseHolder as LeaseHolder
from saltctl.stores.contracts.backup import LeaseStore as LeaseStore
from saltctl.stores.contracts.backup import Raise as Raise
from saltctl.stores.contracts.backup import RaiseOutcome as RaiseOutcome
from saltctl.stores.contracts.messages import Filter as Filter
from saltctl.stores.contracts.messages import Item as Item
from saltctl.stores.contracts.messages import KeysPage as KeysPage
from saltctl.stores.contracts.messages import MessageStore as MessageStore
from saltctl.stores.contracts.messages import PartitionAnswer as PartitionAnswer
from saltctl.stores.contracts.messages import PartitionQuery as PartitionQuery
from saltctl.stores.contracts.messages import SortKey as SortKey
from saltctl.stores.contracts.messages import TableKeys as TableKeys
from saltctl.stores.contracts.messages import TableSize as TableSize
from saltctl.stores.contracts.metrics import Alarm as Alarm
from saltctl.stores.contracts.metrics import AlarmSpec as AlarmSpec
from saltctl.stores.contracts.metrics import Contributors as Contributors
from saltctl.stores.contracts.metrics import MetricKey as MetricKey
from saltctl.stores.contracts.metrics import MetricSeries as MetricSeries
from saltctl.stores.contracts.metrics import MetricsStore as MetricsStore
from saltctl.stores.contracts.metrics import TableDescription as TableDescription
from saltctl.stores.contracts.registry import RegistryStore as RegistryStore
