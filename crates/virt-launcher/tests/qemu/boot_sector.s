# What a disk of the tests boots: tells on the serial line what is on the disks.
# disks.rs has it assembled: as --32 -o o boot_sector.s && ld -m elf_i386 -Ttext 0x7c00 --oformat binary o
.code16
.globl _start
_start:
  ljmp $0, $start
start:
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movw $0x7c00, %sp
  movb %dl, drive
  # what the image says
  movb $0x42, %ah
  call sector
  movw $0x8000, %si
  call line
  # put another word there
  movw $word, %si
  movw $0x8000, %di
  movw $9, %cx
  rep movsb
  movb $0x43, %ah
  call sector
  # read it again
  movw $0x8000, %di
  xorb %al, %al
  movw $512, %cx
  rep stosb
  movb $0x42, %ah
  call sector
  movw $0x8000, %si
  call line
  # the second disk's label
  incb drive
  movb $0, lba
  movb $0x42, %ah
  call sector
  movw $0x802b, %si
  movb $0, 0x8036
  call line
stop:
  hlt
  jmp stop

sector:
  movb drive, %dl
  xorb %al, %al
  movw $dap, %si
  int $0x13
  jc failed
  ret
failed:
  movw $no, %si
  call line
  jmp stop

line:
  lodsb
  testb %al, %al
  jz end
  call out
  jmp line
end:
  movb $10, %al
out:
  movb %al, %bl
  movw $0x3fd, %dx
wait:
  inb %dx, %al
  testb $0x20, %al
  jz wait
  movb %bl, %al
  movw $0x3f8, %dx
  outb %al, %dx
  ret

drive: .byte 0
dap: .byte 16, 0
  .word 1
  .word 0x8000
  .word 0
lba: .byte 1
  .byte 0,0,0,0,0,0,0
word: .asciz "overlaid"
no: .asciz "no disk"
.org 510
.word 0xaa55
