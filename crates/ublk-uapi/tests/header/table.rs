//! The table of comparison: for each thing of the header, what to ask C, and what Rust says.

use std::mem::offset_of;

use bitflags::Flags;
use ublk_uapi::*;

/// One value that C and Rust must agree on.
pub(crate) struct Row {
    /// Names of `ublk_cmd.h` that this row is the counterpart of.
    pub(crate) covers: Vec<String>,
    /// The C expression.
    pub(crate) c: String,
    /// Its value here; one of 64 unsigned bits keeps its bits.
    pub(crate) rust: i64,
}

/// What `ublk_cmd.h` has.
pub(crate) fn header() -> Vec<Row> {
    let mut table = Table::default();
    commands(&mut table);
    flags(&mut table);
    constants(&mut table);
    command_structs(&mut table);
    param_structs(&mut table);
    functions(&mut table);
    positions(&mut table);
    table.rows
}

/// What it takes from `blkzoned.h`, `fs.h` and `io_uring.h`: values only, their names are not all here.
pub(crate) fn neighbours() -> Vec<Row> {
    let mut table = Table::default();
    zones(&mut table);
    integrity(&mut table);
    command_areas(&mut table);
    table.rows
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
}

impl Table {
    fn row(&mut self, covers: &[&str], c: String, rust: i64) {
        self.rows.push(Row { covers: covers.iter().map(|&name| name.to_owned()).collect(), c, rust });
    }

    /// A macro of `ublk_cmd.h`.
    fn value(&mut self, name: &str, rust: impl Bits) {
        self.row(&[name], name.to_owned(), rust.bits());
    }

    /// An expression that no name of `ublk_cmd.h` stands for alone.
    fn expression(&mut self, c: &str, rust: impl Bits) {
        self.row(&[], c.to_owned(), rust.bits());
    }

    /// Every flag of a set.
    fn flag_set<F: Flags<Bits: Bits>>(&mut self, prefix: &str) {
        for flag in F::FLAGS {
            self.value(&format!("{prefix}{}", flag.name()), flag.value().bits());
        }
    }

    fn field(&mut self, tag: &str, field: &str, offset_bytes: usize, (size_bytes, signed): (usize, bool)) {
        let name = format!("{tag}.{field}");
        let zero = format!("((struct {tag} *)0)->{field}");
        self.row(&[&name], format!("offsetof(struct {tag}, {field})"), offset_bytes as i64);
        self.row(&[&name], format!("sizeof({zero})"), size_bytes as i64);
        self.row(&[&name], format!("IS_SIGNED({zero})"), i64::from(signed));
    }
}

/// An integer as the table keeps it.
trait Bits: Copy {
    fn bits(self) -> i64;
}

macro_rules! bits {
    ($($T:ty)+) => { $(impl Bits for $T { fn bits(self) -> i64 { self as i64 } })+ };
}
bits!(u8 u16 u32 u64 i32 usize);

/// The type of a field: whether C must see it as signed.
trait Field {
    const SIGNED: bool = false;
}

macro_rules! unsigned_fields {
    ($($T:ty)+) => { $(impl Field for $T {})+ };
}
unsigned_fields!(u8 u16 u32 u64 Sectors Features Attrs ParamTypes AutoBufRegFlags BatchFlags ShmemBufFlags);
unsigned_fields!(IntegrityCapabilities ParamBasic ParamDiscard ParamDevt ParamZoned ParamDmaAlign ParamSegment);
unsigned_fields!(ParamIntegrity);

impl Field for i32 {
    const SIGNED: bool = true;
}

impl<T, const N: usize> Field for [T; N] {}

/// Size and signedness of the field that `_get` gets.
fn field_of<T, F: Field>(_get: fn(&T) -> &F) -> (usize, bool) {
    (size_of::<F>(), F::SIGNED)
}

macro_rules! layout {
    ($table:ident, $tag:literal, $T:ident { $($field:ident = $c_field:literal),+ $(,)? }) => {
        $table.row(&[concat!("struct ", $tag)], concat!("sizeof(struct ", $tag, ")").into(), size_of::<$T>() as i64);
        $table.row(&[], concat!("_Alignof(struct ", $tag, ")").into(), align_of::<$T>() as i64);
        $($table.field($tag, $c_field, offset_of!($T, $field), field_of(|it: &$T| &it.$field));)+
    };
}

fn commands(table: &mut Table) {
    for op in CtrlOp::ALL {
        table.value(op.kernel_name(), op.ioctl_code());
        if let Some(legacy) = op.legacy_code() {
            table.value(&format!("UBLK_CMD_{}", op.name()), legacy);
        }
        table.expression(&format!("_IOC_NR({})", op.kernel_name()), op.code());
    }
    for op in IoCmdOp::ALL {
        table.value(op.kernel_name(), op.ioctl_code());
        if let Some(legacy) = op.legacy_code() {
            table.value(&format!("UBLK_IO_{}", op.name()), legacy);
        }
        table.expression(&format!("_IOC_NR({})", op.kernel_name()), op.code());
    }
    for op in IoOp::ALL {
        table.value(op.kernel_name(), op.code());
    }
    for state in DevState::ALL {
        table.value(state.kernel_name(), state.code());
    }
}

fn flags(table: &mut Table) {
    table.flag_set::<Features>(Features::KERNEL_PREFIX);
    table.flag_set::<IoFlags>(IoFlags::KERNEL_PREFIX);
    table.flag_set::<AutoBufRegFlags>(AutoBufRegFlags::KERNEL_PREFIX);
    table.flag_set::<BatchFlags>(BatchFlags::KERNEL_PREFIX);
    table.flag_set::<Attrs>(Attrs::KERNEL_PREFIX);
    table.flag_set::<ParamTypes>(ParamTypes::KERNEL_PREFIX);
    table.flag_set::<ShmemBufFlags>(ShmemBufFlags::KERNEL_PREFIX);
    table.value("UBLK_AUTO_BUF_REG_F_MASK", AutoBufRegFlags::all().bits());
    for feature in FEATURES {
        table.value(feature.kernel_name, 1_u64 << feature.bit());
    }
}

fn constants(table: &mut Table) {
    table.value("UBLK_FEATURES_LEN", FEATURES_BYTES);
    table.value("UBLK_IO_RES_OK", RES_OK);
    table.value("UBLK_IO_RES_NEED_GET_DATA", RES_NEED_GET_DATA);
    table.value("UBLK_IO_RES_ABORT", RES_ABORT);
    table.value("UBLK_MIN_SEGMENT_SIZE", MIN_SEGMENT_BYTES);
    table.value("UBLKSRV_CMD_BUF_OFFSET", CMD_BUF_OFFSET_BYTES);
    table.value("UBLKSRV_IO_BUF_OFFSET", IO_BUF_OFFSET_BYTES);
    table.value("UBLK_MAX_QUEUE_DEPTH", MAX_QUEUE_DEPTH);
    table.value("UBLK_MAX_NR_QUEUES", MAX_NR_QUEUES);
    table.value("UBLK_IO_BUF_OFF", BUF_SHIFT);
    table.value("UBLK_IO_BUF_BITS", BUF_BITS);
    table.value("UBLK_IO_BUF_BITS_MASK", BUF_BITS_MASK);
    table.value("UBLK_TAG_OFF", TAG_SHIFT);
    table.value("UBLK_TAG_BITS", TAG_BITS);
    table.value("UBLK_TAG_BITS_MASK", TAG_BITS_MASK);
    table.value("UBLK_QID_OFF", QUEUE_ID_SHIFT);
    table.value("UBLK_QID_BITS", QUEUE_ID_BITS);
    table.value("UBLK_QID_BITS_MASK", QUEUE_ID_BITS_MASK);
    table.value("UBLKSRV_IO_BUF_TOTAL_BITS", IO_BUF_TOTAL_BITS);
    table.value("UBLKSRV_IO_BUF_TOTAL_SIZE", IO_BUF_TOTAL_BYTES);
    table.value("UBLK_INTEGRITY_FLAG_OFF", INTEGRITY_FLAG_SHIFT);
    table.value("UBLKSRV_IO_INTEGRITY_FLAG", INTEGRITY_FLAG);
    table.value("UBLK_SHMEM_ZC_OFF_MASK", SHMEM_ZC_OFFSET_MASK);
    table.value("UBLK_SHMEM_ZC_IDX_OFF", SHMEM_ZC_INDEX_SHIFT);
    table.value("UBLK_SHMEM_ZC_IDX_MASK", SHMEM_ZC_INDEX_MASK);
}

fn command_structs(table: &mut Table) {
    layout!(table, "ublksrv_ctrl_cmd", CtrlCmd {
        dev_id = "dev_id", queue_id = "queue_id", len = "len", addr = "addr", data = "data",
        dev_path_len = "dev_path_len", pad = "pad", reserved = "reserved",
    });
    layout!(table, "ublksrv_ctrl_dev_info", DevInfo {
        nr_hw_queues = "nr_hw_queues", queue_depth = "queue_depth", state = "state", pad0 = "pad0",
        max_io_buf_bytes = "max_io_buf_bytes", dev_id = "dev_id", ublksrv_pid = "ublksrv_pid", pad1 = "pad1",
        flags = "flags", ublksrv_flags = "ublksrv_flags", owner_uid = "owner_uid", owner_gid = "owner_gid",
        reserved1 = "reserved1", reserved2 = "reserved2",
    });
    layout!(table, "ublksrv_io_desc", IoDesc {
        op_flags = "op_flags", nr_sectors = "nr_sectors", nr_sectors = "nr_zones", start_sector = "start_sector",
        addr = "addr",
    });
    layout!(table, "ublksrv_io_cmd", IoCmd {
        q_id = "q_id", tag = "tag", result = "result", addr = "addr", addr = "zone_append_lba",
    });
    layout!(table, "ublk_auto_buf_reg", AutoBufReg {
        index = "index", flags = "flags", reserved0 = "reserved0", reserved1 = "reserved1",
    });
    layout!(table, "ublk_elem_header", ElemHeader { tag = "tag", buf_index = "buf_index", result = "result" });
    layout!(table, "ublk_batch_io", BatchIo {
        q_id = "q_id", flags = "flags", nr_elem = "nr_elem", elem_bytes = "elem_bytes", reserved = "reserved",
        reserved2 = "reserved2",
    });
    layout!(table, "ublk_shmem_buf_reg", ShmemBufReg {
        addr = "addr", len = "len", flags = "flags", reserved = "reserved",
    });
}

fn param_structs(table: &mut Table) {
    layout!(table, "ublk_param_basic", ParamBasic {
        attrs = "attrs", logical_bs_shift = "logical_bs_shift", physical_bs_shift = "physical_bs_shift",
        io_opt_shift = "io_opt_shift", io_min_shift = "io_min_shift", max_sectors = "max_sectors",
        chunk_sectors = "chunk_sectors", dev_sectors = "dev_sectors", virt_boundary_mask = "virt_boundary_mask",
    });
    layout!(table, "ublk_param_discard", ParamDiscard {
        discard_alignment = "discard_alignment", discard_granularity = "discard_granularity",
        max_discard_sectors = "max_discard_sectors", max_write_zeroes_sectors = "max_write_zeroes_sectors",
        max_discard_segments = "max_discard_segments", reserved0 = "reserved0",
    });
    layout!(table, "ublk_param_devt", ParamDevt {
        char_major = "char_major", char_minor = "char_minor", disk_major = "disk_major", disk_minor = "disk_minor",
    });
    layout!(table, "ublk_param_zoned", ParamZoned {
        max_open_zones = "max_open_zones", max_active_zones = "max_active_zones",
        max_zone_append_sectors = "max_zone_append_sectors", reserved = "reserved",
    });
    layout!(table, "ublk_param_dma_align", ParamDmaAlign { alignment = "alignment", pad = "pad" });
    layout!(table, "ublk_param_segment", ParamSegment {
        seg_boundary_mask = "seg_boundary_mask", max_segment_size = "max_segment_size", max_segments = "max_segments",
        pad = "pad",
    });
    layout!(table, "ublk_param_integrity", ParamIntegrity {
        flags = "flags", max_integrity_segments = "max_integrity_segments", interval_exp = "interval_exp",
        metadata_size = "metadata_size", pi_offset = "pi_offset", csum_type = "csum_type", tag_size = "tag_size",
        pad = "pad",
    });
    layout!(table, "ublk_params", Params {
        len = "len", types = "types", basic = "basic", discard = "discard", devt = "devt", zoned = "zoned",
        dma_align = "dma", segment = "seg", integrity = "integrity",
    });
}

/// The header's functions, over inputs that have every bit set in one of them.
fn functions(table: &mut Table) {
    for op_flags in [0, 0xff, 0x2005, 0x1234_5678, 0x8000_0100, u32::MAX] {
        let desc = IoDesc { op_flags, ..Default::default() };
        let pointer = format!("&(struct ublksrv_io_desc){{ .op_flags = {op_flags:#x}u }}");
        table.row(&["ublksrv_get_op"], format!("ublksrv_get_op({pointer})"), desc.op_code().bits());
        table.row(&["ublksrv_get_flags"], format!("ublksrv_get_flags({pointer})"), (desc.flags().bits() >> 8).bits());
    }
    for addr in [0, 0xffff, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
        let reg = AutoBufReg::from_sqe_addr(addr);
        let call = format!("ublk_sqe_addr_to_auto_buf_reg({addr:#x}ull)");
        let covers = &["ublk_sqe_addr_to_auto_buf_reg"];
        table.row(covers, format!("{call}.index"), reg.index.bits());
        table.row(covers, format!("{call}.flags"), reg.flags.bits().into());
        table.row(covers, format!("{call}.reserved0"), reg.reserved0.bits());
        table.row(covers, format!("{call}.reserved1"), reg.reserved1.bits());

        let pointer = format!(
            "&(struct ublk_auto_buf_reg){{ {}, {}, {}, {}u }}",
            reg.index,
            reg.flags.bits(),
            reg.reserved0,
            reg.reserved1
        );
        let call = format!("ublk_auto_buf_reg_to_sqe_addr({pointer})");
        table.row(&["ublk_auto_buf_reg_to_sqe_addr"], call, reg.to_sqe_addr().bits());

        let position = ShmemPosition::from_addr(addr);
        table.row(&["ublk_shmem_zc_index"], format!("ublk_shmem_zc_index({addr:#x}ull)"), position.index.bits());
        table.row(
            &["ublk_shmem_zc_offset"],
            format!("ublk_shmem_zc_offset({addr:#x}ull)"),
            position.offset_bytes.bits(),
        );
        let call = format!("ublk_shmem_zc_addr({}, {}u)", position.index, position.offset_bytes);
        table.row(&["ublk_shmem_zc_addr"], call, position.to_addr().bits());
    }
}

/// Positions of data; the header has the shifts, the driver the sum (`ublk_pos_to_hwq` and its neighbours).
fn positions(table: &mut Table) {
    for (queue_id, tag, offset_bytes, integrity) in
        [(0, 0, 0, false), (1, 2, 512, false), (4095, 4095, 0x1ff_ffff, false), (4095, 0xffff, 0x1ff_ffff, true)]
    {
        let packed = IoBufPosition { queue_id, tag, offset_bytes, integrity }.pack().expect("within the limits");
        table.expression(
            &format!(
                "(UBLKSRV_IO_BUF_OFFSET + ({queue_id}ull << UBLK_QID_OFF) + ({tag}ull << UBLK_TAG_OFF) \
                 + ({offset_bytes}ull << UBLK_IO_BUF_OFF)) | ({}ull * UBLKSRV_IO_INTEGRITY_FLAG)",
                u8::from(integrity)
            ),
            packed,
        );
    }
}

fn zones(table: &mut Table) {
    layout!(table, "blk_zone", Zone {
        start = "start", len = "len", wp = "wp", zone_type = "type", cond = "cond", non_seq = "non_seq",
        reset = "reset", resv = "resv", capacity = "capacity", reserved = "reserved",
    });
    for zone_type in ZoneType::ALL {
        table.expression(zone_type.kernel_name(), zone_type.code());
    }
    for cond in ZoneCond::ALL {
        table.expression(cond.kernel_name(), cond.code());
    }
}

fn integrity(table: &mut Table) {
    for checksum in IntegrityChecksum::ALL {
        table.expression(checksum.kernel_name(), checksum.code());
    }
    for flag in IntegrityCapabilities::FLAGS {
        table.expression(&format!("{}{}", IntegrityCapabilities::KERNEL_PREFIX, flag.name()), flag.value().bits());
    }
}

/// Places for a command in the two sizes of an SQE.
fn command_areas(table: &mut Table) {
    let command_area = "sizeof(struct io_uring_sqe) - offsetof(struct io_uring_sqe, cmd)";
    table.expression(command_area, IoCmd::SQE_BYTES);
    table.expression(command_area, BatchIo::SQE_BYTES);
    table.expression(&format!("sizeof(struct io_uring_sqe) + {command_area}"), CtrlCmd::SQE_BYTES);
}
